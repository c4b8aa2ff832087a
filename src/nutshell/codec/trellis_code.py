"""Convolutional codes of rate 1/2: which levels of a trellis may follow each other.

A level's subset is its remainder by 4, two bits z1 z0. Down each column of levels runs one path bit a level, and

    z1[t] = xor of path[t - i] over the set bits i of the first polynomial,
    z0[t] = xor of path[t - i] over the set bits i of the second,

with path bits of zero before the first. This feedforward form needs no state to decode, only shifted path bits.
The second polynomial has no bit 0, so z0 is known before the level: it leaves the even levels or the odd ones. The code
has 2^m states, with m the highest bit of the first.

Source: Ungerboeck, Channel coding with multilevel/phase signals, 1982, table I (amplitude modulation): his parity-check
polynomials h0 and h1, which as generators of z1 and z0 make the same code.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8

from nutshell.errors import ArtifactError

# By number of states: the polynomials of z1 and z0.
POLYNOMIALS = {
    4: (0o5, 0o2),
    8: (0o13, 0o04),
    16: (0o23, 0o04),
    32: (0o45, 0o10),
    64: (0o103, 0o024),
    128: (0o235, 0o126),
    256: (0o515, 0o362),
}


def subsets(path: UInt8[np.ndarray, "R C"], states: int) -> UInt8[np.ndarray, "R C"]:
    """Give the subset of each level, 0 to 3, of path bits that run down the columns."""
    of_z1, of_z0 = POLYNOMIALS[states]
    return 2 * _filtered(path, of_z1) + _filtered(path, of_z0)


def path_bits(levels: Int[np.ndarray, "R C"], states: int) -> UInt8[np.ndarray, "R C"]:
    """Give the path bits that lead to some levels.

    Raises:
        ArtifactError: none do.
    """
    of_z1, of_z0 = POLYNOMIALS[states]
    path = (levels >> 1 & 1).astype(np.uint8)
    ages = [age for age in _set_bits(of_z1) if age]  # bit 0 is set: what is left of z1 is the newest path bit
    for t in range(len(path)):
        for age in ages:
            if age <= t:
                path[t] ^= path[t - age]
    if not np.array_equal(_filtered(path, of_z0), levels & 1):
        raise ArtifactError(f"levels do not follow the trellis of {states} states")
    return path


def _filtered(path: UInt8[np.ndarray, "R C"], polynomial: int) -> UInt8[np.ndarray, "R C"]:
    result = np.zeros_like(path)
    for age in _set_bits(polynomial):
        result[age:] ^= path[: max(len(path) - age, 0)]
    return result


def _set_bits(polynomial: int) -> Iterator[int]:
    return (bit for bit in range(polynomial.bit_length()) if polynomial >> bit & 1)
