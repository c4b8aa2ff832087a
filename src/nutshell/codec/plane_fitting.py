"""Fit the widths of a plane of codes: a class for each row and each column; only an encoder comes here.

The quantizer's step may fall from column to column and from row to row, and the codes widen as it does. A line
leaves the common class if that saves more than saying so costs: rows first, then columns, then rows again.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from nutshell.codec.fitting import MAX_COUNTS, Fit, best_lines, count_symbols, descend, fit, model_bits, prices
from nutshell.codec.models import (
    MIN_ROW_CODES,
    NUM_RUNGS,
    RUNGS_PER_CLASS,
    Bell,
    PlaneBells,
    StaticModel,
    Support,
)

_MOST_CLASSES = 24  # to either side of where a class begins: six octaves


def fit_plane(symbols: Int[np.ndarray, "R C"], low: int) -> Fit:
    """Find the cheapest widths; `symbols` are codes less `low`, their minimum."""
    support = Support(low, size=int(symbols.max()) + 1)
    counts = count_symbols(symbols, support.size)
    bell, rungs, _ = descend(counts, support)
    rows = _classes(rungs, len(symbols))
    bell = replace(bell, rung=int(rungs.min()))
    columns = np.zeros(symbols.shape[1], np.int64)
    if symbols.shape[0] >= MIN_ROW_CODES and symbols.shape[1] * support.size <= MAX_COUNTS:
        bell, columns = _choose(bell, symbols.T, columns, rows, support)
        bell, rows = _choose(bell, symbols, rows, columns, support)
    return _assemble(bell, rows, columns, symbols, support)


def _classes(rungs: Int[np.ndarray, " K"], num_rows: int) -> Int[np.ndarray, " R"]:
    return np.broadcast_to((rungs - rungs.min()) // RUNGS_PER_CLASS, num_rows).astype(np.int64)


def _choose(
    bell: Bell,
    symbols: Int[np.ndarray, "R C"],
    lines: Int[np.ndarray, " R"],
    across: Int[np.ndarray, " C"],
    support: Support,
) -> tuple[Bell, Int[np.ndarray, " R"]]:
    """Choose the class of each line anew, those across it given; the bell becomes the narrowest that is in use."""
    first = bell.rung + RUNGS_PER_CLASS * int(across.min())
    last = bell.rung + RUNGS_PER_CLASS * int(across.max())
    lowest = -min(_MOST_CLASSES, first // RUNGS_PER_CLASS)
    highest = min(_MOST_CLASSES + int(lines.max()), (NUM_RUNGS - 1 - last) // RUNGS_PER_CLASS)
    offsets = np.arange(lowest, highest + 1)
    costs = np.zeros((len(symbols), len(offsets)))
    for number in np.unique(across):
        counts = count_symbols(symbols[:, across == number], support.size)
        costs += counts @ prices(bell.at_rungs(bell.rung + RUNGS_PER_CLASS * (number + offsets), support)).T
    _, choice = best_lines(costs)
    chosen = offsets[choice]
    return replace(bell, rung=bell.rung + RUNGS_PER_CLASS * int(chosen.min())), chosen - chosen.min()


def _assemble(
    bell: Bell,
    rows: Int[np.ndarray, " R"],
    columns: Int[np.ndarray, " C"],
    symbols: Int[np.ndarray, "R C"],
    support: Support,
) -> Fit:
    """Mend the bell's shape now that the classes are known, model the classes, and add up."""
    counts = _count_by_sum(symbols, rows, columns, support)
    ladder = RUNGS_PER_CLASS * np.arange(len(counts))
    bell = _mended(bell, ladder, counts, support)
    row_fit, column_fit = (fit(classes[None], low=0) for classes in (rows, columns))
    model = StaticModel(support, PlaneBells(bell, row_fit.model, column_fit.model))
    cost = float((counts * prices(bell.at_rungs(bell.rung + ladder, support))).sum())
    said = sum(_class_bits(each) for each in (row_fit, column_fit))
    return Fit(model, model_bits(model, cost) + said, rows, columns)


def _class_bits(fitted: Fit) -> float:
    """Give what the class numbers cost, without their table, which is part of the plane's."""
    return fitted.bits - 8 * len(fitted.model.to_bytes())


def _count_by_sum(
    symbols: Int[np.ndarray, "R C"], rows: Int[np.ndarray, " R"], columns: Int[np.ndarray, " C"], support: Support
) -> Float[np.ndarray, "K N"]:
    """Count symbols by the sum of their row's class and their column's."""
    counts = np.zeros((int(rows.max() + columns.max()) + 1, support.size))
    for number in np.unique(columns):
        by_row = count_symbols(symbols[:, columns == number], support.size)
        if len(by_row) == 1 < len(rows):  # too many symbols for a count by row
            by_row = np.stack([np.bincount(row, minlength=support.size) for row in symbols[:, columns == number]])
        np.add.at(counts, rows + number, by_row)
    return counts


def _mended(bell: Bell, ladder: Int[np.ndarray, " K"], counts: Float[np.ndarray, "K N"], support: Support) -> Bell:
    """Move shape, tail, rung and centre to the cheapest neighbour until there is none."""

    def price(candidate: Bell) -> float:
        return float((counts * prices(candidate.at_rungs(candidate.rung + ladder, support))).sum())

    best, cost = bell, price(bell)
    while True:
        moves = [
            replace(best, **{name: getattr(best, name) + step})
            for name in ("shape", "tail", "rung", "centre")
            for step in (-1, 1)
        ]
        moves = [move for move in moves if _is_possible(move, int(ladder[-1]))]
        found = min(moves, key=price)
        if price(found) >= cost:
            return best
        best, cost = found, price(found)


def _is_possible(bell: Bell, reach: int) -> bool:
    return Bell.is_possible(bell.shape, bell.tail) and bell.rung >= 0 and bell.rung + reach < NUM_RUNGS
