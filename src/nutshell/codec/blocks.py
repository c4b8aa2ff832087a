"""A plane put in order of the classes of its rows and columns, so that each pair of classes is one rectangle."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from nutshell.codec.models import PlaneBells, StaticModel
from nutshell.codec.stack import Stack


class Block(NamedTuple):
    """Where one pair of classes lies in the ordered plane, and their sum."""

    rows: slice
    columns: slice
    number: int


class Blocks:
    """The order of a plane's rows and columns by class.

    Args:
        rows: class of each row.
        columns: class of each column.
    """

    def __init__(self, rows: Int[np.ndarray, " R"], columns: Int[np.ndarray, " C"]) -> None:
        self._rows, self._columns = rows, columns
        self._row_order, self._column_order = (np.argsort(classes, kind="stable") for classes in (rows, columns))

    @classmethod
    def pop(cls, stack: Stack, model: StaticModel, shape: tuple[int, int]) -> "Blocks":
        """Take the classes off a stack; a model that has none makes one block."""
        if not isinstance(model.distribution, PlaneBells):
            return cls(*(np.zeros(count, np.uint8) for count in shape))
        kinds = zip((model.distribution.rows, model.distribution.columns), shape, strict=True)
        rows, columns = (stack.pop(count, model.frequencies(), 0, np.dtype(np.uint8)) for model, count in kinds)
        return cls(rows, columns)

    def push(self, stack: Stack, model: StaticModel) -> None:
        """Put the classes on a stack, so that `pop` finds them."""
        if isinstance(model.distribution, PlaneBells):
            stack.push(self._columns, model.distribution.columns.frequencies())
            stack.push(self._rows, model.distribution.rows.frequencies())

    def __iter__(self) -> Iterator[Block]:
        row_runs, column_runs = (list(_runs(classes)) for classes in (self._rows, self._columns))
        for row_class, rows in row_runs:
            for column_class, columns in column_runs:
                yield Block(rows, columns, row_class + column_class)

    def ordered(self, plane: Int[np.ndarray, "R C"]) -> Int[np.ndarray, "R C"]:
        """Put a plane in order."""
        return np.take(plane[self._row_order], self._column_order, axis=1)

    def restored(self, ordered: Int[np.ndarray, "R C"]) -> Int[np.ndarray, "R C"]:
        """Undo `ordered`."""
        plane = np.empty_like(ordered)
        plane[self._row_order] = np.take(ordered, np.argsort(self._column_order), axis=1)
        return plane


def _runs(classes: Int[np.ndarray, " N"]) -> Iterator[tuple[int, slice]]:
    """Give each class in use and where its lines lie in order."""
    counts = np.bincount(classes)
    edges = np.concatenate([[0], np.cumsum(counts)])
    for number, (start, stop) in enumerate(pairwise(edges.tolist())):
        if start < stop:
            yield number, slice(start, stop)
