"""What coding must cost in theory, from the statistics of a source alone."""

import math

import numpy as np
from jaxtyping import Float64

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


def gaussian_rate_bits(variances: Float64[np.ndarray, " N"], distortion: float) -> float:
    """Give the least bits that an independent normal variable takes in the mean, at a mean squared error over all.

    Reverse water-filling (Cover and Thomas, 10.3.3): every variable has the same error, or its variance if that is less
    and then no bits.

    Args:
        variances: of the variables; none negative.
        distortion: the mean squared error.
    """
    if distortion <= 0:
        return math.inf
    rising = np.sort(variances)
    drowned = np.cumsum(rising)
    count = len(rising)
    # The mean error if the water stood at each of the variances.
    means = (drowned + np.arange(count - 1, -1, -1) * rising) / count
    below = int(np.searchsorted(means, distortion))
    if below == count:
        return 0.0
    level = (count * distortion - (drowned[below - 1] if below else 0.0)) / (count - below)
    return float(0.5 * np.log2(rising[below:] / level).sum() / count)
