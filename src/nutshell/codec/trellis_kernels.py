"""The loops of a trellis' decoder over single levels, compiled; they run without the interpreter's lock.

Levels are visited in the order of their groups: rectangle after rectangle, row by row. `rows` and `columns` are the
orders of the plane's lines, `rectangles` rows of (group, first row, end, first column, end) in that order.
"""

from typing import Any

from numba import njit


@njit(cache=True, nogil=True)
def count_subsets(of_subset: Any, rows: Any, columns: Any, rectangles: Any, counts: Any) -> None:
    """Count the levels of each group and subset.

    Shapes:
        of_subset: [R C], 0 to 3; rows: [R]; columns: [C]; rectangles: [N 5]; counts: [groups 4], added to.
    """
    for i in range(rectangles.shape[0]):
        group, first_row, end_row, first_column, end_column = rectangles[i]
        for row in range(first_row, end_row):
            line = of_subset[rows[row]]
            for column in range(first_column, end_column):
                counts[group, line[columns[column]]] += 1


@njit(cache=True, nogil=True)
def place_levels(
    indices: Any, starts: Any, lowest: Any, of_subset: Any, rows: Any, columns: Any, rectangles: Any, levels: Any
) -> None:
    """Put each level where it belongs: the next of its group and subset.

    Shapes:
        indices: [R C], of levels within their subset, those of a group and subset together; starts: [groups 4], where
        these begin, moved on to where they end; lowest: [4], the level of index 0; levels: [R C], written.
    """
    for i in range(rectangles.shape[0]):
        group, first_row, end_row, first_column, end_column = rectangles[i]
        for row in range(first_row, end_row):
            line, out = of_subset[rows[row]], levels[rows[row]]
            for column in range(first_column, end_column):
                place = columns[column]
                subset = line[place]
                out[place] = indices[starts[group, subset]] * 4 + lowest[subset]
                starts[group, subset] += 1
