"""What a recipe says about quantization: which roles, by which method, on which grid."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import Meta

from nutshell.config.struct import Kind, kind_of
from nutshell.errors import RecipeError
from nutshell.nn.params import ParamRow
from nutshell.quant.grids import Grid, OpenGrid, RateGrid
from nutshell.quant.lqer import Lqer

# What is two-dimensional and worth quantizing; gains and scales stay in fp16, as does a role that no rule names.
QuantRole = Literal["matrix", "projection", "embedding", "head", "gate"]


class RuleKind(Kind, frozen=True, kw_only=True):
    """Base of all rules: the roles that it quantizes, on which grid, and with which correction."""

    roles: Annotated[tuple[QuantRole, ...], Meta(min_length=1)]
    grid: Grid = RateGrid()
    lqer: Lqer | None = None

    @property
    def needs_statistics(self) -> bool:
        """Whether it is not defined without a calibration."""
        return self.grid.needs_statistics or (self.lqer is not None and self.lqer.weighted)

    @property
    def uses_statistics(self) -> bool:
        """Whether a calibration changes what it does."""
        return self.grid.uses_statistics or self.needs_statistics


class RtnConfig(RuleKind, frozen=True, tag="rtn"):
    """Round to nearest on the grid."""


class GptqConfig(RuleKind, frozen=True, tag="gptq"):
    """Round to nearest column by column, each column's error made up for by those after it (GPTQ).

    `act_order` takes the columns by falling diagonal of the Hessian; `damping` is added to it, as a share of its mean;
    `block` columns at a time are kept up to date.
    """

    act_order: bool = True
    damping: Annotated[float, Meta(gt=0)] = 0.01
    block: Annotated[int, Meta(ge=1)] = 128

    @property
    def needs_statistics(self) -> bool:
        return True


class TrellisConfig(RuleKind, frozen=True, tag="trellis"):
    """Trellis-coded quantization, by the least sum of error and rate down each column.

    `rate_weight` is what a bit is worth, in squares of the distance of two levels; with `feedback`, columns make up for
    each other as in GPTQ.
    """

    grid: OpenGrid = RateGrid()
    states: Literal[4, 8, 16, 32, 64, 128, 256] = 8
    rate_weight: Annotated[float, Meta(ge=0)] = 0.4
    feedback: bool = False

    @property
    def needs_statistics(self) -> bool:
        return self.feedback or super().needs_statistics


QuantRule = RtnConfig | GptqConfig | TrellisConfig


def is_quantized(shape: Sequence[int]) -> bool:
    """Say whether rules act on parameters of a shape: a vector of any role is stored in fp16."""
    return len(shape) == 2


def check_roles(rules: Iterable[QuantRule], table: Iterable[ParamRow]) -> None:
    """Refuse a rule for weights that the model does not have: it would do nothing.

    Raises:
        RecipeError: so it is.
    """
    roles = {row.role for row in table if is_quantized(row.shape)}
    for rule in rules:
        if idle := [role for role in rule.roles if role not in roles]:
            raise RecipeError(
                f"pack.rules: '{kind_of(rule)}' is for the role '{idle[0]}', and no matrix of the model has that; "
                f"there are {', '.join(sorted(roles))}"
            )


def rule_for(rules: Sequence[QuantRule], role: str, shape: Sequence[int]) -> QuantRule | None:
    """Give the rule of a parameter; None where it is stored in fp16."""
    return next((rule for rule in rules if role in rule.roles and is_quantized(shape)), None)
