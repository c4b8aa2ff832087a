"""Reversible rearrangements of an array that let a coder find more.

A transform is a pair of pure functions and a rule for the dtype and shape in between, so that a decoder knows what to
expect from the coder before it decodes anything.
"""

from typing import Protocol

import numpy as np
from jaxtyping import Shaped, UInt8

Shape = tuple[int, ...]


class Transform(Protocol):
    """A bijection between arrays."""

    def forward(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Rearrange."""
        ...

    def inverse(self, array: Shaped[np.ndarray, "..."], dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
        """Undo `forward`; `dtype` and `shape` are those of the original."""
        ...

    def between(self, dtype: np.dtype, shape: Shape) -> tuple[np.dtype, Shape]:
        """Say what `forward` makes of an array of this dtype and shape."""
        ...


class ByteShuffle:
    """All first bytes, then all second bytes: the exponents of a float array become neighbours.

    Source: the shuffle filter of HDF5.
    """

    def forward(self, array: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "B N"]:
        """Split N items of B bytes into B planes, lowest byte first."""
        flat = np.ascontiguousarray(array).reshape(-1)
        return np.ascontiguousarray(flat.view(np.uint8).reshape(flat.size, flat.itemsize).T)

    def inverse(self, array: UInt8[np.ndarray, "B N"], dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
        """Interleave the planes again."""
        return np.ascontiguousarray(array.T).reshape(-1).view(dtype).reshape(shape)

    def between(self, dtype: np.dtype, shape: Shape) -> tuple[np.dtype, Shape]:
        """One plane of bytes for each byte of an item."""
        return np.dtype(np.uint8), (dtype.itemsize, int(np.prod(shape, dtype=np.int64)))


TRANSFORMS: dict[str, Transform] = {"shuffle": ByteShuffle()}
