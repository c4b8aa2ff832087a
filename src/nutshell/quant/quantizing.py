"""The contract of all quantizers: a weight, its statistics and a rule to integer planes, and planes to the weight.

Pure: the same arguments give the same planes on any number of threads. Another processor may round a factorisation
otherwise and give others; what planes decode to is the same everywhere.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.config.struct import kind_of
from nutshell.errors import ArtifactError
from nutshell.quant import gptq, rtn, trellis
from nutshell.quant.config import GptqConfig, QuantRule, RtnConfig, TrellisConfig
from nutshell.quant.feedback import Feedback
from nutshell.quant.levels import values_of_planes
from nutshell.quant.lqer import corrected
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics

# One line adds a method: its config, and (weight, rule, statistics=, precision=, feedback=) -> planes.
METHODS: dict[type[QuantRule], Callable[..., CodePlanes]] = {
    RtnConfig: rtn.quantize,
    GptqConfig: gptq.quantize,
    TrellisConfig: trellis.quantize,
}


def feedback_of(rule: QuantRule, statistics: Statistics | None) -> Feedback | None:
    """Give how columns make up for each other under a rule, which no precision changes; None where they do not.

    Raises:
        NutshellError: the Hessian is not finite, or singular in spite of the rule's damping.
    """
    if isinstance(rule, GptqConfig):
        return gptq.feedback_of(rule, statistics)
    return trellis.feedback_of(rule, statistics) if isinstance(rule, TrellisConfig) else None


def quantize(
    weight: Float[Tensor, "R C"],
    rule: QuantRule,
    *,
    statistics: Statistics | None = None,
    precision: Precision | None = None,
    feedback: Feedback | None = None,
) -> CodePlanes:
    """Quantize one matrix, without the correction of `rule.lqer`: which matrices have one is chosen among all.

    Args:
        weight: fp32.
        rule: the method, and its grid.
        statistics: of this matrix; a rule that needs them must have them.
        precision: the fitted one; a rule with an open grid must have it.
        feedback: `feedback_of` the rule and the statistics, for who has it already.

    Raises:
        NutshellError: as `feedback_of`.
    """
    assert statistics is not None or not rule.needs_statistics, f"{kind_of(rule)} needs statistics"
    assert precision is not None or not rule.grid.is_open, f"grid '{kind_of(rule.grid)}' needs a precision"
    feedback = feedback or feedback_of(rule, statistics)
    return METHODS[type(rule)](weight, rule, statistics=statistics, precision=precision, feedback=feedback)


def dequantize(planes: CodePlanes) -> Float[Tensor, "R C"]:
    """Give the weights of planes, with their correction if there is one, in fp32.

    Raises:
        ArtifactError: the planes are of another method, or do not match each other.
    """
    method = planes.spec.get("method")
    if method not in (known := [str(config.__struct_config__.tag) for config in METHODS]):
        raise ArtifactError(f"unknown quantizer '{method}', this version has {', '.join(known)}")
    if method == trellis.METHOD:
        planes = trellis.restore_rows(planes)
    return corrected(values_of_planes(planes), planes.sides)
