"""What a recipe says about quantization: which roles, by which method, on which grid."""

from typing import Annotated, Literal

from msgspec import Meta

from nutshell.config.struct import Kind
from nutshell.quant.grids import Grid, OpenGrid, RateGrid

# What is two-dimensional and worth quantizing; gains and scales stay in fp16, as does a role that no rule names.
QuantRole = Literal["matrix", "projection", "embedding", "head", "gate"]


class RuleKind(Kind, frozen=True, kw_only=True):
    """Base of all rules: the roles that it quantizes."""

    roles: tuple[QuantRole, ...]


class RtnConfig(RuleKind, frozen=True, tag="rtn"):
    """Round to nearest on the grid."""

    grid: Grid = RateGrid()

    @property
    def needs_statistics(self) -> bool:
        """Whether it is not defined without a calibration."""
        return self.grid.needs_statistics

    @property
    def uses_statistics(self) -> bool:
        """Whether a calibration changes what it does."""
        return self.grid.uses_statistics


class GptqConfig(RuleKind, frozen=True, tag="gptq"):
    """Round to nearest column by column, each column's error made up for by those after it (GPTQ).

    `act_order` takes the columns by falling diagonal of the Hessian; `damping` is added to it, as a share of its mean;
    `block` columns at a time are kept up to date.
    """

    grid: Grid = RateGrid()
    act_order: bool = True
    damping: Annotated[float, Meta(gt=0)] = 0.01
    block: Annotated[int, Meta(ge=1)] = 128

    @property
    def needs_statistics(self) -> bool:
        return True

    @property
    def uses_statistics(self) -> bool:
        return True


class TrellisConfig(RuleKind, frozen=True, tag="trellis"):
    """Trellis-coded quantization, by the least sum of error and rate down each column.

    `rate_weight` is what a bit is worth, in squared steps; with `feedback`, columns make up for each other as in GPTQ.
    """

    grid: OpenGrid = RateGrid()
    states: Literal[4, 8, 16, 32, 64, 128, 256] = 8
    rate_weight: Annotated[float, Meta(ge=0)] = 0.5
    feedback: bool = False

    @property
    def needs_statistics(self) -> bool:
        return self.feedback

    @property
    def uses_statistics(self) -> bool:
        return self.feedback or self.grid.uses_statistics


QuantRule = RtnConfig | GptqConfig | TrellisConfig
