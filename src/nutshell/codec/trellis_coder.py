"""Levels that follow a trellis: one path bit each, and which level of the subset that the path leaves.

The path bits say the remainder of every level by 4 (trellis_code.py). Where levels are many they are coins, and stored
as they are; where rows or columns stay near zero the path does too, and each class of widths has its share of ones
(path_shares.py). The rest, (level - remainder) / 4, is coded under the bell of the levels restricted to one remainder;
rows and columns have widths of their own, as in the plane of `ans`.
"""

import numpy as np
from jaxtyping import Int, UInt8

from nutshell.codec.ans import CODE_DTYPES, fit_lines, read_model, symbols_of
from nutshell.codec.blocks import Blocks
from nutshell.codec.models import StaticModel, TableReader, normalised, unsigned_bytes
from nutshell.codec.path_shares import PathShares
from nutshell.codec.stack import Stack
from nutshell.codec.transforms import Shape
from nutshell.codec.trellis_code import path_bits, subsets
from nutshell.errors import ArtifactError

NUM_SUBSETS = 4


class TrellisAns:
    """Two-dimensional levels, whose columns follow the trellis of some states from its first.

    Args:
        states: of the trellis.
    """

    def __init__(self, states: int) -> None:
        self.states = states

    def encode(self, array: Int[np.ndarray, "R C"]) -> bytes:
        """Compress levels that follow the trellis, which is the quantizer's promise."""
        assert array.dtype.name in CODE_DTYPES, f"levels are integers, got {array.dtype}"
        assert array.ndim == 2, f"levels are a plane, got shape {array.shape}"
        path = path_bits(array, self.states)
        symbols, low = symbols_of(array)
        fitted = fit_lines(symbols.reshape(array.shape), low, array.shape)
        blocks, stack = Blocks(fitted.rows, fitted.columns), Stack()
        _push_levels(stack, blocks, fitted.model, array, subsets(path, self.states))
        ordered = blocks.ordered(path)
        shares = PathShares.of(ordered, blocks, len(fitted.model.by_class()))
        coins = shares.push(stack, blocks, ordered)
        blocks.push(stack, fitted.model)
        head = fitted.model.to_bytes() + shares.to_bytes() + unsigned_bytes(len(coins))
        return head + coins + stack.to_bytes()

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Int[np.ndarray, "R C"]:
        """Restore."""
        if len(shape) != 2:
            raise ArtifactError(f"a trellis has planes of levels, not arrays of shape {list(shape)}")
        plane, reader = (shape[0], shape[1]), TableReader(payload)
        model = read_model(reader, dtype, shape)
        shares = PathShares.read(reader, len(model.by_class()))
        coins = reader.take(reader.unsigned())
        stack = Stack(payload[reader.position :])
        blocks = Blocks.pop(stack, model, plane)
        path = blocks.restored(shares.pop(stack, blocks, coins, plane))
        levels = _pop_levels(stack, blocks, model, dtype, subsets(path, self.states))
        stack.check_empty()
        return blocks.restored(levels)


def _push_levels(
    stack: Stack,
    blocks: Blocks,
    model: StaticModel,
    levels: Int[np.ndarray, "R C"],
    of_subset: UInt8[np.ndarray, "R C"],
) -> None:
    """Put the index of each level in its subset on the stack, group by group, what is to be read first last."""
    tables = _SubsetTables(model)
    levels, of_subset = blocks.ordered(levels), blocks.ordered(of_subset)
    for group in reversed(blocks.groups()):
        part, members = group.items(levels), group.items(of_subset)
        for subset in reversed(range(NUM_SUBSETS)):
            chosen = part[members == subset].astype(np.int32)
            if chosen.size:
                frequencies = tables.frequencies(group.number, subset)
                stack.push((chosen - tables.lowest[subset]) // NUM_SUBSETS, frequencies)


def _pop_levels(
    stack: Stack, blocks: Blocks, model: StaticModel, dtype: np.dtype, of_subset: UInt8[np.ndarray, "R C"]
) -> Int[np.ndarray, "R C"]:
    """Take levels off the stack, in the order of the groups."""
    tables, of_subset = _SubsetTables(model), blocks.ordered(of_subset)
    ordered = np.empty(of_subset.shape, dtype)
    for group in blocks.groups():
        members, levels = group.items(of_subset), np.empty(group.size, dtype)
        for subset in range(NUM_SUBSETS):
            places = np.flatnonzero(members == subset)  # four times as fast as a mask
            if places.size:
                indices = np.empty(places.size, np.int32)
                stack.pop_into(indices, tables.frequencies(group.number, subset))
                levels[places] = indices * NUM_SUBSETS + tables.lowest[subset]
        group.put(ordered, levels)
    return ordered


class _SubsetTables:
    """Frequencies of a plane's levels within each remainder by 4."""

    def __init__(self, model: StaticModel) -> None:
        low = model.support.low
        self.lowest = [low + (subset - low) % NUM_SUBSETS for subset in range(NUM_SUBSETS)]
        by_class = model.by_class().astype(np.int64)
        restricted = [by_class[:, lowest - low :: NUM_SUBSETS] for lowest in self.lowest]
        self._tables = [normalised(each) if each.size else None for each in restricted]

    def frequencies(self, number: int, subset: int) -> Int[np.ndarray, " N"]:
        """Give those of a class and a subset.

        Raises:
            ArtifactError: the subset has no level.
        """
        if (table := self._tables[subset]) is None:
            raise ArtifactError("a coded section's path leads to levels that it does not have")
        return table[number]
