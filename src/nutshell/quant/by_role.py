"""Which grid each role's weights will have, for a training that looks ahead to its export."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from nutshell.quant.config import MAX_BITS, QuantRole, RtnConfig
from nutshell.quant.grids import RowGrid, grid_of

# Coded bits a weight that a training foresees, where a rule leaves them to the budget.
RateBits = Annotated[float, Meta(gt=0, le=MAX_BITS)]


def grids_by_role(
    rules: Sequence[RtnConfig], *, roles: Sequence[QuantRole] | None, rate_bits: RateBits | None, who: str
) -> dict[QuantRole, RowGrid]:
    """Give the grids of some roles.

    Args:
        rules: the exporter's.
        roles: which; None for all that the rules quantize.
        rate_bits: coded bits a weight, where a rule leaves them to the budget, which is met only after the training.
        who: the setting that asks, for messages.

    Raises:
        ValueError: a role is not quantized or listed twice, none is left, or a rate is missing or without effect.
    """
    by_role: dict[QuantRole, RtnConfig] = {role: rule for rule in rules for role in rule.roles}
    wanted = tuple(by_role) if roles is None else tuple(roles)
    if not wanted:
        raise ValueError(f"{who} has no effect: {'no role is listed' if by_role else 'pack.rules quantizes nothing'}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"{who}.roles names a role twice: {list(wanted)}")
    if spared := [role for role in wanted if role not in by_role]:
        raise ValueError(f"{who} has no effect on '{spared[0]}': no rule of pack.rules quantizes it")
    fitted = [role for role in wanted if by_role[role].bits is None]
    if fitted and rate_bits is None:
        raise ValueError(f"{who} needs rate_bits: pack.rules leaves the precision of '{fitted[0]}' to the budget")
    if rate_bits is not None and not fitted:
        raise ValueError(f"{who}.rate_bits has no effect: pack.rules fixes the bits of {list(wanted)}")
    return {role: grid_of(by_role[role], rate_bits) for role in wanted}
