"""Levels that follow a trellis: one path bit each, and which level of the subset that the path leaves.

The path bits say the remainder of every level by 4 (trellis_code.py). At the rates of weights they are coins, so they
are stored as they are, eight to a byte. The rest, (level - remainder) / 4, is coded under the bell of the levels
restricted to one remainder; rows and columns may have widths of their own, as in the plane of `ans`.
"""

import numpy as np
from jaxtyping import Int, UInt8

from nutshell.codec.ans import CODE_DTYPES, fit_lines, read_model, symbols_of
from nutshell.codec.blocks import Blocks
from nutshell.codec.models import StaticModel, TableReader, normalised
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
        model, blocks, stack = fitted.model, Blocks(fitted.rows, fitted.columns), Stack()
        ordered, of_subset = blocks.ordered(array), blocks.ordered(subsets(path, self.states))
        tables = _SubsetTables(model)
        for block in reversed(list(blocks)):
            levels, members = ordered[block.rows, block.columns], of_subset[block.rows, block.columns]
            for subset in reversed(range(NUM_SUBSETS)):
                chosen = levels[members == subset].astype(np.int32)
                if chosen.size:
                    frequencies = tables.frequencies(block.number, subset)
                    stack.push((chosen - tables.lowest[subset]) // NUM_SUBSETS, frequencies)
        blocks.push(stack, model)
        return model.to_bytes() + np.packbits(path).tobytes() + stack.to_bytes()

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Int[np.ndarray, "R C"]:
        """Restore."""
        if len(shape) != 2:
            raise ArtifactError(f"a trellis has planes of levels, not arrays of shape {list(shape)}")
        reader, (num_rows, num_columns) = TableReader(payload), shape
        model = read_model(reader, dtype, shape)
        path = _unpacked(reader.take(-(-num_rows * num_columns // 8)), num_rows, num_columns)
        stack = Stack(payload[reader.position :])
        blocks = Blocks.pop(stack, model, (num_rows, num_columns))
        of_subset, tables = blocks.ordered(subsets(path, self.states)), _SubsetTables(model)
        ordered = np.empty(shape, dtype)
        for block in blocks:
            part = ordered[block.rows, block.columns]
            members, levels = of_subset[block.rows, block.columns].ravel(), np.empty(part.size, dtype)
            for subset in range(NUM_SUBSETS):
                places = np.flatnonzero(members == subset)  # four times as fast as a mask
                if places.size:
                    indices = stack.pop(places.size, tables.frequencies(block.number, subset), 0, np.dtype(np.int32))
                    levels[places] = indices * NUM_SUBSETS + tables.lowest[subset]
            part[:] = levels.reshape(part.shape)
        stack.check_empty()
        return blocks.restored(ordered)


class _SubsetTables:
    """Frequencies of a plane's levels within each remainder by 4."""

    def __init__(self, model: StaticModel) -> None:
        self._by_class = model.by_class()
        low, high = model.support.low, model.support.low + model.support.size - 1
        self.lowest = [low + (subset - low) % NUM_SUBSETS for subset in range(NUM_SUBSETS)]
        self._possible = [lowest <= high for lowest in self.lowest]
        self._low = low
        self._known: dict[tuple[int, int], Int[np.ndarray, " N"]] = {}

    def frequencies(self, number: int, subset: int) -> Int[np.ndarray, " N"]:
        """Give those of a class and a subset.

        Raises:
            ArtifactError: the subset has no level.
        """
        if not self._possible[subset]:
            raise ArtifactError("a coded section's path leads to levels that it does not have")
        key = (number, subset)
        if key not in self._known:
            restricted = self._by_class[number, self.lowest[subset] - self._low :: NUM_SUBSETS]
            self._known[key] = normalised(restricted[None].astype(np.int64))[0]
        return self._known[key]


def _unpacked(packed: bytes, num_rows: int, num_columns: int) -> UInt8[np.ndarray, "R C"]:
    """Read path bits, row by row.

    Raises:
        ArtifactError: a bit that belongs to no level is set.
    """
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    if bits[num_rows * num_columns :].any():
        raise ArtifactError("a coded section has path bits that belong to no level")
    return bits[: num_rows * num_columns].reshape(num_rows, num_columns)
