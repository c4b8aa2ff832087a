"""How often path bits are one, by class of width: coins are stored as they are, the rest under their share of ones.

A class's byte q says that a path bit is one with probability q^2 / 2^16; q = 0 says that its bits are coins. Shares are
far below a half where levels stay at zero, which is also where a bit each would be most of what a level costs.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Int, UInt8

from nutshell.codec.blocks import Blocks
from nutshell.codec.models import TableReader, normalised
from nutshell.codec.stack import Stack
from nutshell.errors import ArtifactError

_COIN_BITS = 0.985  # from this entropy on: the coder takes longer than the bytes are worth


@dataclass(frozen=True)
class PathShares:
    """A byte for each sum of a row's class and a column's."""

    shares: bytes

    @classmethod
    def of(cls, ordered: UInt8[np.ndarray, "R C"], blocks: Blocks, num_classes: int) -> Self:
        """Count ones in a path in the order of the blocks."""
        ones, sizes = np.zeros(num_classes), np.zeros(num_classes)
        for block in blocks:
            part = ordered[block.rows, block.columns]
            ones[block.number] += part.sum(dtype=np.int64)
            sizes[block.number] += part.size
        return cls(bytes(_share(float(one), float(size)) for one, size in zip(ones, sizes, strict=True)))

    def push(self, stack: Stack, blocks: Blocks, ordered: UInt8[np.ndarray, "R C"]) -> bytes:
        """Put the bits that are no coins on the stack; give the coins, eight to a byte."""
        coins = [ordered[block.rows, block.columns].ravel() for block in blocks if not self.shares[block.number]]
        for block in reversed(list(blocks)):
            if share := self.shares[block.number]:
                stack.push(ordered[block.rows, block.columns], _frequencies(share))
        return np.packbits(np.concatenate(coins)).tobytes() if coins else b""

    def pop(self, stack: Stack, blocks: Blocks, coins: bytes, shape: tuple[int, int]) -> UInt8[np.ndarray, "R C"]:
        """Restore a path in the order of the blocks.

        Raises:
            ArtifactError: there are more coins or fewer than the blocks have.
        """
        ordered, bits = np.empty(shape, np.uint8), np.unpackbits(np.frombuffer(coins, np.uint8))
        taken = 0
        for block in blocks:
            part = ordered[block.rows, block.columns]
            if share := self.shares[block.number]:
                found = stack.pop(part.size, _frequencies(share), 0, np.dtype(np.uint8))
            else:
                found = bits[taken : taken + part.size]
                taken += part.size
            if found.size < part.size:
                raise ArtifactError("a coded section has fewer path bits than levels")
            part[:] = found.reshape(part.shape)
        if len(coins) != -(-taken // 8) or bits[taken:].any():
            raise ArtifactError("a coded section has path bits that belong to no level")
        return ordered

    def to_bytes(self) -> bytes:
        """Write the table entry."""
        return self.shares

    @classmethod
    def read(cls, reader: TableReader, num_classes: int) -> Self:
        """Read what `to_bytes` wrote."""
        return cls(reader.take(num_classes))


def _share(ones: float, size: float) -> int:
    """Choose the byte of a class."""
    if not size:
        return 0
    share = min(max(round(256 * (ones / size) ** 0.5), 1), 255)
    probability = share**2 / 2**16
    bits = -ones * np.log2(probability) - (size - ones) * np.log2(1 - probability)
    return share if bits < _COIN_BITS * size else 0


def _frequencies(share: int) -> Int[np.ndarray, " 2"]:
    return normalised(np.array([[2**16 - share**2, share**2]], np.int64))[0]
