"""Symbols in groups that cost about the same, so that a fit takes as long with few symbols as with many.

One weight far out makes thousands of symbols between itself and the others. What a bell asks for those is smooth.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Int

from nutshell.codec.models import PRECISION_BITS, Bell, Support

COST_UNITS = 1 << 16  # of a bit: sums of whole units are exact in float64; times 24 bits and 2^30 codes below 2^53
MAX_COUNTS = 1 << 24  # entries of a table of counts by row: 128 MB
_ALONE = 32  # symbols to either side of the median, each a bin of its own
_PER_OCTAVE = 16


@dataclass(frozen=True)
class Bins:
    """Which bin each symbol of a support is in.

    Attributes:
        labels: the bin of each symbol, ascending.
        middles: the code that stands for a bin.
        widths: symbols in a bin.
    """

    labels: Int[np.ndarray, " N"]
    middles: Int[np.ndarray, " B"]
    widths: Int[np.ndarray, " B"]

    @classmethod
    def of(cls, support: Support, counts: Int[np.ndarray, " N"]) -> Self:
        """Make bins around the median of some symbols, given how often each occurs."""
        median = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
        offsets = np.arange(support.size) - median
        octaves = np.log2(np.maximum(np.abs(offsets), _ALONE) / _ALONE)
        places = np.sign(offsets) * np.where(
            np.abs(offsets) < _ALONE, np.abs(offsets), _ALONE + np.floor(_PER_OCTAVE * octaves).astype(np.int64)
        )
        _, firsts, labels, widths = np.unique(places, return_index=True, return_inverse=True, return_counts=True)
        return cls(labels=labels, middles=support.low + firsts + widths // 2, widths=widths)

    def count(self, symbols: Int[np.ndarray, "R C"]) -> Float[np.ndarray, "R B"]:
        """Count by row, or all together where that table would be too large."""
        num_bins = len(self.middles)
        if len(symbols) * num_bins > MAX_COUNTS:
            symbols = symbols.reshape(1, -1)
        places = self.labels[symbols] + num_bins * np.arange(len(symbols))[:, None]
        return np.bincount(places.ravel(), minlength=len(symbols) * num_bins).reshape(-1, num_bins).astype(np.float64)

    def prices(self, bell: Bell, rungs: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K B"]:
        """Give about what a symbol of each bin costs, in units of cost, for each of several rungs of a bell."""
        weights = bell.weights(rungs, self.middles)
        spare = (1 << PRECISION_BITS) - len(self.labels)
        frequencies = weights * (spare / (weights @ self.widths))[:, None] + 1
        return np.rint(COST_UNITS * (PRECISION_BITS - np.log2(frequencies)))
