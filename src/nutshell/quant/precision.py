"""The one knob of a byte budget: how fine the grids are that a recipe leaves open."""

import math
from dataclasses import dataclass

# Entropy of a normal variable quantized with step D: 0.5 log2(2 pi e) - log2(D/s) bits (Cover and Thomas, 8.3).
NORMAL_ENTROPY_BITS = 0.5 * math.log2(2 * math.pi * math.e)


def step_for_rate(rate_bits: float) -> float:
    """Give the step, in standard deviations, at which a normal row costs `rate_bits` a weight after entropy coding."""
    return 2.0 ** (NORMAL_ENTROPY_BITS - rate_bits)


@dataclass(frozen=True, slots=True)
class Precision:
    """What all open grids of an artifact share.

    Attributes:
        rate_bits: about the mean coded bits a weight; it moves all open grids together.
        unit: for `slope` grids: geometric mean, over all weights under such rules, of a row's deviation times the root
            of the weight's sensitivity. With it, a step of `step_for_rate(rate_bits)` units costs about `rate_bits`.
    """

    rate_bits: float
    unit: float = 1.0
