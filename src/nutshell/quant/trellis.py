"""Trellis-coded quantization: down each column, the levels of least error and rate that a convolutional code allows.

The levels lie half a step apart, but each has only every second one to choose from, so that it costs what a level of a
whole step costs; which ones, the levels before it decide (`codec/trellis_code.py`). The search over whole columns finds
a sequence nearer to the weights than rounding gets at the same rate: by 1.1 dB with 8 states and 1.3 dB with 256, of
the 1.53 dB that separate rounding from the bound. Source: Marcellin and Fischer, Trellis Coded Quantization, 1990; with
the rate in the metric, Fischer and Wang, Entropy-constrained trellis-coded quantization, 1992.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.errors import ArtifactError
from nutshell.quant.config import TrellisConfig
from nutshell.quant.feedback import Feedback
from nutshell.quant.grids import SlopeGrid
from nutshell.quant.levels import WIDEST_CODE, Levels, stored
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics
from nutshell.quant.viterbi import best_levels

METHOD = "trellis"
# Of feedback, as in GPTQ.
_DAMPING, _BLOCK = 0.01, 128
# What a level may cost more than zero does: no static model makes the rarest of them much dearer.
_DEAREST_BITS = 16.0


def feedback_of(rule: TrellisConfig, statistics: Statistics | None) -> Feedback | None:
    """Factor the Hessian; None for a rule without feedback.

    Raises:
        NutshellError: it is not finite, or singular in spite of the damping.
    """
    if not rule.feedback:
        return None
    assert statistics is not None, "a trellis with feedback needs a calibration"
    # Steps by slope pay for the determinant of the Hessian in any order; from left to right did best (docs/log.md).
    return Feedback.of(statistics.hessian, act_order=not isinstance(rule.grid, SlopeGrid), damping=_DAMPING)


def quantize(
    weight: Float[Tensor, "R C"],
    rule: TrellisConfig,
    *,
    statistics: Statistics | None,
    precision: Precision | None,
    feedback: Feedback | None,
) -> CodePlanes:
    """Search every column for its levels; those, by rows of rising scale, and the steps."""
    variances = None if feedback is None else feedback.conditional_variances()
    levels = _halved(rule.grid.fit(weight, statistics=statistics, precision=precision, variances=variances))
    rows = torch.from_numpy(_order(levels.scale.numpy()))
    weight, steps = weight.double()[rows], levels.steps(*weight.shape)[rows]
    row_widths = weight.square().mean(dim=1, keepdim=True)

    def quantize_columns(columns: slice, targets: Float[Tensor, "R N"]) -> Int[Tensor, "R N"]:
        pulls = rule.rate_weight * square_prices(targets, row_widths, steps[:, columns])
        return _search(targets / steps[:, columns], pulls, rule.states)

    if feedback is None:
        codes = quantize_columns(slice(None), weight)
    else:
        codes = feedback.quantize(
            weight, steps, _BLOCK, lambda at, targets: quantize_columns(slice(at, at + 1), targets[:, None])[:, 0]
        )
    return levels.planes(codes, {"method": METHOD, "states": rule.states})


def restore_rows(planes: CodePlanes) -> CodePlanes:
    """Put the rows of stored codes back where the weight has them.

    Rows are stored by rising scale. A row far below its step is all zeros at no cost, unless rows around it make the
    code leave the path of zeros; side by side, such rows cost nothing. The scales say the order for free.
    """
    scale = planes.sides.get("scale")
    if scale is None or planes.codes.ndim != 2 or scale.shape != planes.codes.shape[:1]:
        raise ArtifactError("a trellis needs one scale a row")
    codes = np.empty_like(planes.codes)
    codes[_order(scale)] = planes.codes
    return replace(planes, codes=codes)


def square_prices(
    targets: Float[Tensor, "R N"], row_squares: Float[Tensor, "R 1"], steps: Float[Tensor, "R N"]
) -> Float[Tensor, "R N"]:
    """Give the bits that each unit of a squared level costs, if targets are normal with widths by row and column.

    A normal level of deviation s costs l^2 log2(e) / (2 s^2) bits more than zero does.

    Args:
        targets: as feedback left them, which widens columns.
        row_squares: mean square of each row of the weight.
        steps: of the levels.
    """
    column_squares = torch.where(row_squares > 0, targets.square() / row_squares, 0.0).mean(dim=0, keepdim=True)
    squares = row_squares * column_squares
    prices = steps.square() * (math.log2(math.e) / 2) / squares
    return torch.where(squares > 0, prices, _DEAREST_BITS).clamp_max(_DEAREST_BITS)


def _halved(levels: Levels) -> Levels:
    return replace(levels, scale=stored(levels.scale.double() / 2), largest=WIDEST_CODE)


def _search(targets: Float[Tensor, "R N"], pulls: Float[Tensor, "R N"], states: int) -> Int[Tensor, "R N"]:
    return torch.from_numpy(best_levels(targets.T.contiguous().numpy(), pulls.T.contiguous().numpy(), states)).T


def _order(scale: Shaped[np.ndarray, " R"]) -> Int[np.ndarray, " R"]:
    """Give the rows by rising scale, of equal ones the first first."""
    return np.argsort(scale, kind="stable")
