"""How often path bits are one, by class of width: coins are stored as they are, the rest under their share of ones.

A class's byte q says that a path bit is one with probability q^2 / 2^16; q = 0 says that its bits are coins. Shares are
far below a half where levels stay at zero, which is also where a bit each would be most of what a level costs.

Eight bits of a class are one symbol of 256, whose frequency is the product of theirs: an eighth of the symbols, at the
same cost.
"""

from dataclasses import dataclass
from functools import cache
from typing import Self

import numpy as np
from jaxtyping import Int, UInt8

from nutshell.codec.blocks import Blocks
from nutshell.codec.models import TableReader, normalised
from nutshell.codec.stack import Stack
from nutshell.errors import ArtifactError

_COIN_BITS = 0.998  # from this entropy on: the coder takes longer than the bytes are worth


@dataclass(frozen=True)
class PathShares:
    """A byte for each sum of a row's class and a column's."""

    shares: bytes

    @classmethod
    def of(cls, ordered: UInt8[np.ndarray, "R C"], blocks: Blocks, num_classes: int) -> Self:
        """Count ones in a path in the order of the blocks."""
        ones, sizes = np.zeros(num_classes), np.zeros(num_classes)
        for group in blocks.groups():
            ones[group.number] = group.items(ordered).sum(dtype=np.int64)
            sizes[group.number] = group.size
        return cls(bytes(_share(float(one), float(size)) for one, size in zip(ones, sizes, strict=True)))

    def push(self, stack: Stack, blocks: Blocks, ordered: UInt8[np.ndarray, "R C"]) -> bytes:
        """Put the bits that are no coins on the stack; give the coins, eight to a byte."""
        groups = blocks.groups()
        coins = [group.items(ordered) for group in groups if not self.shares[group.number]]
        for group in reversed(groups):
            if share := self.shares[group.number]:
                stack.push(np.packbits(group.items(ordered)), _frequencies(share))
        return np.packbits(np.concatenate(coins)).tobytes() if coins else b""

    def pop(self, stack: Stack, blocks: Blocks, coins: bytes, shape: tuple[int, int]) -> UInt8[np.ndarray, "R C"]:
        """Restore a path in the order of the blocks.

        Raises:
            ArtifactError: there are more coins or fewer than the blocks have.
        """
        ordered, bits = np.empty(shape, np.uint8), np.unpackbits(np.frombuffer(coins, np.uint8))
        taken = 0
        for group in blocks.groups():
            if share := self.shares[group.number]:
                octets = stack.pop(-(-group.size // 8), _frequencies(share), 0, np.dtype(np.uint8))
                found, beyond = np.split(np.unpackbits(octets), [group.size])
                if beyond.any():
                    raise ArtifactError("a coded section has path bits that belong to no level")
            else:
                found = bits[taken : taken + group.size]
                taken += group.size
            if found.size < group.size:
                raise ArtifactError("a coded section has fewer path bits than levels")
            group.put(ordered, found)
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


@cache
def _frequencies(share: int) -> Int[np.ndarray, " 256"]:
    """Give those of eight path bits, the first in the highest bit: integers, the same on every machine."""
    weights = np.full(256, 2**30, np.int64)
    for bit in np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).T:
        weights = weights * np.where(bit, share**2, 2**16 - share**2) >> 16
    return normalised(weights[None])[0]
