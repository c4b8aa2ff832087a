"""Round to nearest: each weight to the nearest level of its grid; the baseline of every quantizer."""

from jaxtyping import Float
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.quant.config import RtnConfig
from nutshell.quant.feedback import Feedback
from nutshell.quant.grids import Grid
from nutshell.quant.levels import values
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics

METHOD = "rtn"


def quantize(
    weight: Float[Tensor, "R C"],
    rule: RtnConfig,
    *,
    statistics: Statistics | None,
    precision: Precision | None,
    feedback: Feedback | None,
) -> CodePlanes:
    """Round to the rule's grid; the codes, and the steps."""
    assert feedback is None, "no column makes up for another"
    levels = rule.grid.fit(weight, statistics=statistics, precision=precision)
    codes = levels.codes(weight.double(), levels.steps(*weight.shape))
    return levels.planes(codes, {"method": METHOD})


def round_trip(weight: Float[Tensor, "R C"], grid: Grid, precision: Precision | None) -> Float[Tensor, "R C"]:
    """Give the weights as an artifact gives them back, in fp32: quantized and dequantized, where they are."""
    levels = grid.fit(weight, precision=precision)
    return values(levels.codes(weight.double(), levels.steps(*weight.shape)), levels)
