"""Grids whose precision the budget chooses: by a row's deviation, or by what an error costs."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.quant.grids.grid import GridKind, rms
from nutshell.quant.levels import COLUMN_STEPS_PER_OCTAVE, MAX_BITS, WIDEST_CODE, Levels, largest_code, stored
from nutshell.quant.precision import Precision, step_for_rate
from nutshell.quant.statistics import Statistics


class RateGrid(GridKind, frozen=True, tag="rate"):
    """The step at which a normal row would cost the budget's rate, `extra_bits` more, after entropy coding.

    Rows with an outlier beyond the widest code get a coarser step.
    """

    is_open: ClassVar[bool] = True
    extra_bits: float = 0.0

    @property
    def largest(self) -> int:
        return largest_code(MAX_BITS)

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, " R"]:
        assert precision is not None, "an open grid needs a precision"
        # Outliers beyond the widest code would be clipped; a coarser step keeps them, at no cost to other rows.
        coarsest = weight.abs().amax(dim=1) / self.largest
        return torch.maximum(rms(weight) * step_for_rate(precision.rate_bits + self.extra_bits), coarsest)


class SlopeGrid(GridKind, frozen=True, tag="slope"):
    """One global step in the metric of the loss: where an error costs more, the step is finer.

    With the sensitivity s of weight (r, j), row_weights[r] times the variance of input j given the columns after it,
    the step is D / sqrt(s). Equal slope everywhere is what minimises the expected loss under a number of bytes, and at
    these rates equal slope is an equal step (shared/design/compression.md). Without statistics s is 1.

    Stored as a scale a row and a factor a column in quarters of an octave. The steps do not go with the weights, so a
    smaller weight costs fewer bits, as under no other grid.
    """

    is_open: ClassVar[bool] = True
    uses_statistics: ClassVar[bool] = True
    extra_bits: float = 0.0

    @property
    def largest(self) -> int:
        return WIDEST_CODE

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, " R"]:
        assert precision is not None, "an open grid needs a precision"
        step = step_for_rate(precision.rate_bits + self.extra_bits) * precision.unit
        if statistics is None:
            return weight.new_full((weight.shape[0],), step)
        return step / sensitivity(statistics.row_weights).to(weight).sqrt()

    def fit(
        self,
        weight: Float[Tensor, "R C"],
        *,
        statistics: Statistics | None = None,
        precision: Precision | None = None,
        variances: Float[Tensor, " C"] | None = None,
    ) -> Levels:
        scale = self.scale(weight.double(), statistics=statistics, precision=precision)
        if statistics is None:
            return Levels(stored(_kept_inside(scale, weight)), self.largest)
        if variances is None:
            variances = statistics.hessian.diagonal()
        octaves = -0.5 * sensitivity(variances.double()).log2()
        # What all columns share goes into the scales: the factors then stay near 1, and fp16 has room for the product.
        shared = octaves.mean()
        columns = torch.round((octaves - shared) * COLUMN_STEPS_PER_OCTAVE).clamp(-127, 127).to(torch.int8)
        factors = torch.exp2(columns.double() / COLUMN_STEPS_PER_OCTAVE)
        return Levels(stored(_kept_inside(scale * shared.exp2(), weight / factors)), self.largest, columns)


def sensitivity(costs: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Give costs of errors as the steps go by them: none is less than a millionth of the mean.

    A dead input, or an output that the loss does not see, would have an endless step. Where all are zero, all are 1.
    """
    mean = costs.double().mean()
    return costs.double().clamp_min(1e-6 * mean) if mean > 0 else torch.ones_like(costs, dtype=torch.float64)


def _kept_inside(scale: Float[Tensor, " R"], weight: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
    """Coarsen rows whose largest weight would lie beyond the widest code."""
    return torch.maximum(scale, weight.abs().amax(dim=1) / WIDEST_CODE)
