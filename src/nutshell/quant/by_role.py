"""Which grid each role's weights will have, for a training that looks ahead to its export."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from nutshell.config.struct import kind_of
from nutshell.quant.config import QuantRole, QuantRule, TrellisConfig
from nutshell.quant.grids import Grid, RateGrid
from nutshell.quant.grids.grid import spread_over
from nutshell.quant.levels import MAX_BITS
from nutshell.quant.precision import Precision
from nutshell.quant.rtn import round_trip

# Coded bits a weight that a training foresees, where a rule leaves them to the budget.
RateBits = Annotated[float, Meta(gt=0, le=MAX_BITS)]

# At one rate, the error of a trellis of 8 states is that of rounding with this much more (docs/qat.md).
TRELLIS_GAIN_BITS = 0.17


class SeenGrid(NamedTuple):
    """A grid as a training sees it: at a precision that is known before the budget is met."""

    grid: Grid
    precision: Precision | None = None

    def steps(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """Give each weight's step, in the precision of `weight`; differentiable, and not rounded as it is stored."""
        return spread_over(weight, self.grid.scale(weight, statistics=None, precision=self.precision))

    def stored_steps(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """Give each weight's step as it will be stored."""
        return self.grid.fit(weight, precision=self.precision).steps(*weight.shape)

    def rounded(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """Give the weights as the artifact will give them back, in fp32."""
        return round_trip(weight, self.grid, self.precision)


def grids_by_role(
    rules: Sequence[QuantRule], *, roles: Sequence[QuantRole] | None, rate_bits: RateBits | None, who: str
) -> dict[QuantRole, SeenGrid]:
    """Give the grids of some roles.

    Args:
        rules: the exporter's.
        roles: which; None for all that the rules quantize.
        rate_bits: coded bits a weight, where a rule leaves them to the budget, which is met only after the training.
        who: the setting that asks, for messages.

    Raises:
        ValueError: a role is not quantized or listed twice, none is left, its grid is known only after the training, or
            a rate is missing or without effect.
    """
    by_role: dict[QuantRole, QuantRule] = {role: rule for rule in rules for role in rule.roles}
    wanted = tuple(by_role) if roles is None else tuple(roles)
    if not wanted:
        raise ValueError(f"{who} has no effect: {'no role is listed' if by_role else 'pack.rules quantizes nothing'}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"{who}.roles names a role twice: {list(wanted)}")
    if spared := [role for role in wanted if role not in by_role]:
        raise ValueError(f"{who} has no effect on '{spared[0]}': no rule of pack.rules quantizes it")
    grids: dict[QuantRole, Grid] = {role: _foreseen(role, by_role[role], who) for role in wanted}
    fitted = [role for role in wanted if grids[role].is_open]
    if fitted and rate_bits is None:
        raise ValueError(f"{who} needs rate_bits: pack.rules leaves the precision of '{fitted[0]}' to the budget")
    if rate_bits is not None and not fitted:
        raise ValueError(f"{who}.rate_bits has no effect: pack.rules fixes the bits of {list(wanted)}")
    precision = None if rate_bits is None else Precision(rate_bits)
    return {role: SeenGrid(grid, precision if grid.is_open else None) for role, grid in grids.items()}


def _foreseen(role: QuantRole, rule: QuantRule, who: str) -> Grid:
    """Give the grid on which rounding to nearest stands for a rule."""
    grid = rule.grid
    if grid.uses_statistics:
        raise ValueError(
            f"{who} cannot foresee '{role}': grid '{kind_of(grid)}' takes its steps from a calibration, "
            "which comes after the training; list other roles, or give it another grid"
        )
    if isinstance(rule, TrellisConfig):
        assert isinstance(grid, RateGrid), "all other open grids use statistics"
        return RateGrid(extra_bits=grid.extra_bits + TRELLIS_GAIN_BITS)
    return grid
