"""Reach a byte budget: the finest precision whose artifact is not larger.

One number, the coded bits a weight, moves all fitted steps together. Size falls smoothly with it, so a few real
packings bracket the budget and a bisection closes in. Every size is that of real bytes.
"""

from collections.abc import Callable

from nutshell.artifact.config import PackConfig
from nutshell.artifact.pack import Contents, Packed, is_fitted, pack
from nutshell.errors import BudgetError
from nutshell.units import format_bytes

LOWEST_RATE_BITS, HIGHEST_RATE_BITS = 1.0, 8.0
HALVINGS = 12  # 7 bits / 2^12: at 4 bits a weight, 0.05 % of the budget

Progress = Callable[[int, int], None]


def fit(contents: Contents, config: PackConfig, progress: Progress | None = None) -> Packed:
    """Pack under `config.budget_bytes`; `progress` is told how many packings of how many are done.

    Raises:
        BudgetError: even the coarsest precision is larger, or the rules fix a precision that is.
    """
    if not is_fitted(config):
        return _must_fit(pack(contents, config, rate_bits=None), config, "the precision that its rules fix")
    low = _must_fit(pack(contents, config, rate_bits=LOWEST_RATE_BITS), config, f"{LOWEST_RATE_BITS:g} bits a weight")
    low_rate, high_rate = LOWEST_RATE_BITS, HIGHEST_RATE_BITS
    for halving in range(HALVINGS):
        if progress:
            progress(halving + 1, HALVINGS + 1)
        middle = pack(contents, config, rate_bits=(low_rate + high_rate) / 2)
        assert middle.rate_bits is not None
        if len(middle.content) <= config.budget_bytes:
            low, low_rate = middle, middle.rate_bits
        else:
            high_rate = middle.rate_bits
    return low


def _must_fit(packed: Packed, config: PackConfig, precision: str) -> Packed:
    if len(packed.content) > config.budget_bytes:
        raise BudgetError(
            f"the artifact has {format_bytes(len(packed.content))} at {precision}, over the budget of "
            f"{format_bytes(config.budget_bytes)}; raise the budget or train a smaller model"
        )
    return packed
