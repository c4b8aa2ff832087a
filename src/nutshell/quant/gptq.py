"""GPTQ: round to nearest column by column, each column's error taken up by those after it.

Source: Frantar et al., arXiv 2210.17323; act-order, damping and dead inputs as in its authors' code. Scales are fitted
to the weights as they were trained, before any feedback, and stay.
"""

from jaxtyping import Float
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.quant.config import GptqConfig
from nutshell.quant.feedback import Feedback
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics

METHOD = "gptq"


def feedback_of(rule: GptqConfig, statistics: Statistics | None) -> Feedback:
    """Factor the Hessian.

    Raises:
        NutshellError: it is not finite, or singular in spite of the damping.
    """
    assert statistics is not None, "gptq needs a calibration"
    return Feedback.of(statistics.hessian, act_order=rule.act_order, damping=rule.damping)


def quantize(
    weight: Float[Tensor, "R C"],
    rule: GptqConfig,
    *,
    statistics: Statistics | None,
    precision: Precision | None,
    feedback: Feedback | None,
) -> CodePlanes:
    """Round to the rule's grid with feedback; the codes, and the steps."""
    assert feedback is not None, "gptq is rounding with feedback"
    variances = feedback.conditional_variances()
    levels = rule.grid.fit(weight, statistics=statistics, precision=precision, variances=variances)
    steps = levels.steps(*weight.shape)

    def quantize_column(column: int, targets: Float[Tensor, " R"]) -> Tensor:
        return levels.codes(targets[:, None], steps[:, column, None])[:, 0]

    return levels.planes(feedback.quantize(weight, steps, rule.block, quantize_column), {"method": METHOD})
