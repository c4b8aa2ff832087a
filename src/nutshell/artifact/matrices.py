"""The matrices of a model as planes: quantized beside one another, each corrected if it is among the worst."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.nn.params import Role
from nutshell.quant.config import QuantRule
from nutshell.quant.feedback import Feedback
from nutshell.quant.grids import SlopeGrid
from nutshell.quant.grids.grid import rms
from nutshell.quant.grids.open import sensitivity
from nutshell.quant.lqer import correct, most_wrong, residual_norm
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import dequantize, feedback_of, quantize
from nutshell.quant.statistics import Statistics
from nutshell.quant.workers import in_order


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix with what its planes depend on besides the precision."""

    name: str
    role: Role
    weight: Float[Tensor, "R C"]
    rule: QuantRule
    statistics: Statistics | None
    feedback: Feedback | None = None


def factored(matrices: Iterable[Matrix], *, workers: int | None = None) -> list[Matrix]:
    """Factor the Hessians of matrices that will be quantized at more than one precision."""
    return in_order(
        lambda each: replace(each, feedback=feedback_of(each.rule, each.statistics)), list(matrices), workers=workers
    )


def quantize_all(
    matrices: Iterable[Matrix], precision: Precision | None, *, workers: int | None = None
) -> dict[str, CodePlanes]:
    """Quantize matrices beside one another, and correct those that their rules' `lqer` chooses; by name."""
    matrices = list(matrices)

    def planes_of(matrix: Matrix) -> CodePlanes:
        return quantize(
            matrix.weight, matrix.rule, statistics=matrix.statistics, precision=precision, feedback=matrix.feedback
        )

    planes = dict(zip((each.name for each in matrices), in_order(planes_of, matrices, workers=workers), strict=True))
    corrected = [each for each in matrices if each.rule.lqer is not None]
    return planes | (_corrected(corrected, planes, workers) if corrected else {})


def _corrected(matrices: list[Matrix], planes: Mapping[str, CodePlanes], workers: int | None) -> dict[str, CodePlanes]:
    """Correct the matrices of largest residual, of each rule its `top`."""
    restored = in_order(lambda each: dequantize(planes[each.name]), matrices, workers=workers)
    pairs = list(zip(matrices, restored, strict=True))
    chosen = set[str]()
    for rule in dict.fromkeys(matrix.rule for matrix in matrices):
        assert rule.lqer is not None
        residuals = {each.name: _residual(each, values) for each, values in pairs if each.rule == rule}
        chosen |= most_wrong(residuals, rule.lqer.top)

    def corrected(pair: tuple[Matrix, Tensor]) -> CodePlanes:
        matrix, values = pair
        assert matrix.rule.lqer is not None
        return correct(planes[matrix.name], values, matrix.weight, matrix.rule.lqer, matrix.statistics)

    worst = [pair for pair in pairs if pair[0].name in chosen]
    names = [matrix.name for matrix, _ in worst]
    return dict(zip(names, in_order(corrected, worst, workers=workers), strict=True))


def _residual(matrix: Matrix, restored: Float[Tensor, "R C"]) -> float:
    """Say how wrong a matrix is: by what that costs in the loss, where its rule's correction goes by it."""
    if matrix.rule.lqer and matrix.rule.lqer.weighted:
        assert matrix.statistics is not None, "a weighted correction needs a calibration"
        return matrix.statistics.cost(matrix.weight - restored)
    return residual_norm(matrix.weight, restored)


def slope_unit(matrices: Iterable[Matrix], *, workers: int | None = None) -> float:
    """Give the geometric mean, over all weights on `slope` grids, of deviation times the root of the sensitivity.

    In this unit a step of one deviation is one for all of them together, so a rate means about that many bits.
    """
    sloped = [each for each in matrices if isinstance(each.rule.grid, SlopeGrid)]
    if not sloped:
        return 1.0
    octaves = in_order(_mean_octaves, sloped, workers=workers)
    sizes = [each.weight.numel() for each in sloped]
    return 2.0 ** (sum(mean * size for mean, size in zip(octaves, sizes, strict=True)) / sum(sizes))


def _mean_octaves(matrix: Matrix) -> float:
    """Give the mean log2 of a row's deviation and of the root of the sensitivity, over the weights of a matrix.

    Rows that are zero have no deviation, and no say.
    """
    deviations = rms(matrix.weight.double())
    octaves = float(deviations[deviations > 0].log2().mean()) if bool((deviations > 0).any()) else 0.0
    if matrix.statistics is None:
        return octaves
    # Under feedback an error costs what is left of it once later columns make up for it. The mean of the logarithms
    # does not depend on the order of the columns: it is that of the determinant.
    feedback = matrix.feedback or feedback_of(matrix.rule, matrix.statistics)
    variances = matrix.statistics.hessian.diagonal() if feedback is None else feedback.conditional_variances()
    factors = (sensitivity(costs).log2().mean() / 2 for costs in (matrix.statistics.row_weights, variances))
    return octaves + float(sum(factors))
