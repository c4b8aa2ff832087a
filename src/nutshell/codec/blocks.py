"""A plane put in order of the classes of its rows and columns, so that each pair of classes is one rectangle.

Rectangles of the same sum of classes are one group: they have their frequencies in common and are coded together. A
call of the coder takes as long as a thousand symbols, and a plane has many more pairs of classes than sums.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Int, Shaped

from nutshell.codec.models import PlaneBells, StaticModel
from nutshell.codec.stack import Stack


@dataclass(frozen=True)
class Group:
    """All rectangles of one sum of classes.

    Attributes:
        number: the sum.
        rectangles: rows and columns in the ordered plane, by rising class of rows.
    """

    number: int
    rectangles: tuple[tuple[slice, slice], ...]

    @cached_property
    def size(self) -> int:
        """Count the items."""
        return sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in self.rectangles)

    def items(self, ordered: Shaped[np.ndarray, "R C"]) -> Shaped[np.ndarray, " N"]:
        """Give those of an ordered plane, rectangle after rectangle, row by row."""
        return np.concatenate([ordered[place].ravel() for place in self.rectangles])

    def put(self, ordered: Shaped[np.ndarray, "R C"], items: Shaped[np.ndarray, " N"]) -> None:
        """Undo `items`."""
        start = 0
        for place in self.rectangles:
            part = ordered[place]
            part[:] = items[start : start + part.size].reshape(part.shape)
            start += part.size


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

    def groups(self) -> list[Group]:
        """Give the groups by rising sum of classes."""
        return self._groups

    @cached_property
    def _groups(self) -> list[Group]:
        row_runs, column_runs = (list(_runs(classes)) for classes in (self._rows, self._columns))
        rectangles: defaultdict[int, list[tuple[slice, slice]]] = defaultdict(list)
        for row_class, rows in row_runs:
            for column_class, columns in column_runs:
                rectangles[row_class + column_class].append((rows, columns))
        return [Group(number, tuple(rectangles[number])) for number in sorted(rectangles)]

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
