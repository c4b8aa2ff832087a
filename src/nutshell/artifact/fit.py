"""Reach a byte budget: the finest precision whose artifact is not larger.

One number, the coded bits a weight, moves all fitted steps together. Size is almost linear in it, so interpolation
between a precision that fits and one that does not closes in within a few packings. Every size is that of real bytes.
"""

from collections.abc import Callable

from nutshell.artifact.config import PackConfig
from nutshell.artifact.pack import Contents, Packed, Packer, is_fitted
from nutshell.errors import BudgetError
from nutshell.units import format_bytes

LOWEST_RATE_BITS, HIGHEST_RATE_BITS = 1.0, 8.0
SLACK_FRAC = 5e-4  # of the budget: what may stay unused
MOST_PACKINGS = 16  # where a size jumps, at a tiny model's changes of coding, the slack cannot be met

Progress = Callable[[int, int], None]


def fit(contents: Contents, config: PackConfig, progress: Progress | None = None) -> Packed:
    """Pack under `config.budget_bytes`; `progress` is told how many packings of at most how many are done.

    Raises:
        BudgetError: even the coarsest precision is larger, or the rules fix a precision that is.
    """
    packer = Packer(contents, config)
    if not is_fitted(config):
        return _must_fit(packer.pack(None), config, "the precision that its rules fix")
    budget = config.budget_bytes
    low_rate, high_rate = LOWEST_RATE_BITS, HIGHEST_RATE_BITS
    low = _must_fit(packer.pack(low_rate), config, f"{low_rate:g} bits a weight")
    high = packer.pack(high_rate)
    if len(high.content) <= budget:
        return high
    for packing in range(2, MOST_PACKINGS):
        if progress:
            progress(packing, MOST_PACKINGS)
        if len(low.content) >= (1 - SLACK_FRAC) * budget:
            break
        # Aim inside the slack, not at its edge, and stay clear of both ends, which a flat stretch would pull us to.
        aim = (1 - SLACK_FRAC / 2) * budget
        share = (aim - len(low.content)) / (len(high.content) - len(low.content))
        rate = low_rate + min(max(share, 0.05), 0.95) * (high_rate - low_rate)
        middle = packer.pack(rate)
        if len(middle.content) <= budget:
            low, low_rate = middle, rate
        else:
            high, high_rate = middle, rate
    return low


def _must_fit(packed: Packed, config: PackConfig, precision: str) -> Packed:
    if len(packed.content) > config.budget_bytes:
        raise BudgetError(
            f"the artifact has {format_bytes(len(packed.content))} at {precision}, over the budget of "
            f"{format_bytes(config.budget_bytes)}; raise the budget or train a smaller model"
        )
    return packed
