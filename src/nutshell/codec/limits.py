"""What coding must cost in theory, from the statistics of a source alone."""

import math

_TAIL = 9.0  # standard deviations beyond which a normal variable is never found


def gaussian_code_bits(step_over_sigma: float) -> float:
    """Entropy in bits of a normal variable rounded to multiples of a step.

    Args:
        step_over_sigma: the step in standard deviations; for fine steps the result is 2.047 - log2 of it.
    """
    bits = 0.0
    for code in range(math.ceil(_TAIL / step_over_sigma) + 1):
        # erfc keeps the digits that a difference of erf loses far from the mean.
        beyond_lower, beyond_upper = (
            math.erfc(edge * step_over_sigma / math.sqrt(2)) / 2 for edge in (code - 0.5, code + 0.5)
        )
        probability = beyond_lower - beyond_upper
        if probability > 0:
            bits -= (1 if code == 0 else 2) * probability * math.log2(probability)
    return bits
