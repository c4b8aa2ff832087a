"""Arrays that codecs meet, made by exact arithmetic alone, so that bitstreams can be pinned for every machine."""

import numpy as np

from nutshell.codec.trellis_code import subsets


def noise(count, *, seed=1):
    """Roughly normal floats of unit variance: sums of twelve uniform numbers of a 64-bit linear congruence."""
    state, uniform = seed, np.empty((count, 12))
    for place in range(uniform.size):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        uniform.flat[place] = (state >> 33) / 2**31
    return uniform.sum(axis=1) - 6


def one_bell():
    return np.rint(noise(40 * 24).reshape(40, 24) / 0.4145).astype(np.int8)


def rows_of_many_widths():
    widths = 2.0 ** (np.arange(48) % 7 - 1)
    return np.rint(noise(48 * 64, seed=2).reshape(48, 64) * widths[:, None]).astype(np.int16)


def planes_of_many_widths():
    rows, columns = 2.0 ** (np.arange(40) % 4 / 2), 2.0 ** (np.arange(56) % 5 / 2)
    return np.rint(noise(40 * 56, seed=5).reshape(40, 56) * rows[:, None] * columns).astype(np.int8)


QUIET_STATES = (64, 128, 256)


def levels(states, *, count=48 * 42, rows=48):
    """Levels near noise that follow the trellis: the subset of each is what random path bits leave."""
    path = (noise(count, seed=6) > 0).astype(np.uint8).reshape(rows, -1)
    if states in QUIET_STATES:  # a third of the columns stays near zero: few of their path bits are ones
        path[:, ::3] &= path[:, 1::3] & path[:, 2::3] if path.shape[1] % 3 == 0 else 0
    subset = subsets(path, states).astype(np.int64)
    widths = 2.0 ** (3 * (np.arange(subset.shape[1]) % 3) - 5) if states in QUIET_STATES else 1.0
    wanted = noise(count, seed=states).reshape(rows, -1) * 4.5 * widths
    return (subset + 4 * np.rint((wanted - subset) / 4)).astype(np.int8)


def two_spikes():
    return np.where(noise(300, seed=3) > 0.5, 1000, 7).astype(np.uint16)


def scales():
    return ((noise(64, seed=4) / 8 + 1) ** 2 / 64).astype(np.float16)


def maximal_entropy():
    return (np.arange(4096) * 2654435761 >> 7 & 255).astype(np.uint8).reshape(64, 64)


INTEGERS = {
    "one bell": one_bell(),
    "rows of many widths": rows_of_many_widths(),
    "planes of many widths": planes_of_many_widths(),
    "two spikes": two_spikes(),
    "maximal entropy": maximal_entropy(),
    "one row": one_bell()[:1],
    "one code": np.array(-5, np.int32),
    "constant": np.full((17, 33), 3, np.uint8),
    "empty": np.zeros((0, 7), np.int8),
    "extremes of uint32": np.array([2**32 - 1, 2**32 - 70], np.uint32),
    "extremes of int16": np.repeat(np.array([-(2**15), 2**15 - 1], np.int16), 40),
    "extremes of int32": np.array([[-(2**31), -(2**31) + 300]], np.int32),
    "three dimensions": one_bell().reshape(4, 10, 24),
    "big-endian": rows_of_many_widths().astype(">i2"),
    "not contiguous": rows_of_many_widths().T[::2],
}
FLOATS = {
    "scales": scales(),
    "float32": noise(50).astype(np.float32).reshape(5, 10),
    "not finite": np.array([np.inf, -0.0, np.nan, 1e-8], np.float16),
    "empty floats": np.zeros(0, np.float32),
}
EVERY = INTEGERS | FLOATS
