"""Fit the widths of a plane of codes: a class for each row and each column; only an encoder comes here.

The quantizer's step may fall from column to column and from row to row, and the codes widen as it does. A line
leaves the common class if that saves more than saying so costs. The bell's form and the classes depend on each other:
they are chosen in turns, until that saves nothing, from two beginnings, rows first and columns first.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from nutshell.codec.bins import COST_UNITS, MAX_COUNTS, Bins
from nutshell.codec.fitting import Fit, best_lines, descend, fit, model_bits
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
_MOST_ROUNDS = 4


@dataclass(frozen=True)
class _Widths:
    """A bell, the class of each row and column, and what it all costs but for the table, in units of cost."""

    bell: Bell
    rows: Int[np.ndarray, " R"]
    columns: Int[np.ndarray, " C"]
    cost: float


def fit_plane(symbols: Int[np.ndarray, "R C"], low: int) -> Fit:
    """Find the cheapest widths; `symbols` are codes less `low`, their minimum."""
    support = Support(low, size=int(symbols.max()) + 1)
    bins = Bins.of(support, np.bincount(symbols.ravel(), minlength=support.size))
    found = _improved(_rows_first(symbols, bins), symbols, bins)
    if _may_differ(symbols.T, bins):
        columns_first = _improved(_transposed(_rows_first(symbols.T, bins)), symbols, bins)
        found = min(found, columns_first, key=lambda widths: widths.cost)
    row_fit, column_fit = (fit(classes[None], low=0) for classes in (found.rows, found.columns))
    model = StaticModel(support, PlaneBells(found.bell, row_fit.model, column_fit.model))
    said = sum(each.bits - 8 * len(each.model.to_bytes()) for each in (row_fit, column_fit))
    labels = np.arange(support.size)
    counts = _count_by_sum(symbols, found.rows, found.columns, replace(bins, labels=labels, middles=labels))
    return Fit(model, model_bits(model, counts) + said, found.rows, found.columns)


def _may_differ(symbols: Int[np.ndarray, "R C"], bins: Bins) -> bool:
    """Say whether lines are long enough for widths of their own, and few enough to try."""
    return symbols.shape[1] >= MIN_ROW_CODES and len(symbols) * len(bins.middles) <= MAX_COUNTS


def _rows_first(symbols: Int[np.ndarray, "R C"], bins: Bins) -> _Widths:
    """Give rows their widths as if columns had none."""
    bell, rungs, _ = descend(bins.count(symbols), bins)
    rows = np.broadcast_to((rungs - rungs.min()) // RUNGS_PER_CLASS, len(symbols)).astype(np.int64)
    return _Widths(replace(bell, rung=int(rungs.min())), rows, np.zeros(symbols.shape[1], np.int64), np.inf)


def _transposed(widths: _Widths) -> _Widths:
    return replace(widths, rows=widths.columns, columns=widths.rows)


def _improved(widths: _Widths, symbols: Int[np.ndarray, "R C"], bins: Bins) -> _Widths:
    """Choose columns, rows and the bell's form in turns."""
    best = _mended(widths, symbols, bins)
    for _ in range(_MOST_ROUNDS):
        widths = best
        if _may_differ(symbols.T, bins):
            widths = _transposed(_chosen(_transposed(widths), symbols.T, bins))
        if _may_differ(symbols, bins):
            widths = _chosen(widths, symbols, bins)
        widths = _mended(widths, symbols, bins)
        if widths.cost >= best.cost:
            break
        best = widths
    return best


def _chosen(widths: _Widths, symbols: Int[np.ndarray, "R C"], bins: Bins) -> _Widths:
    """Choose the class of each row anew, those of columns given; the bell becomes the narrowest that is in use."""
    bell, reach = widths.bell, int(widths.columns.max())
    lowest = -min(_MOST_CLASSES, bell.rung // RUNGS_PER_CLASS)
    highest = min(_MOST_CLASSES + int(widths.rows.max()), (NUM_RUNGS - 1 - bell.rung) // RUNGS_PER_CLASS - reach)
    offsets = np.arange(lowest, highest + 1)
    prices = bins.prices(bell, bell.rung + RUNGS_PER_CLASS * np.arange(lowest, highest + reach + 1))
    costs = np.zeros((len(symbols), len(offsets)))
    for number in np.unique(widths.columns).tolist():
        counts = bins.count(symbols[:, widths.columns == number])
        costs += counts @ prices[number : number + len(offsets)].T
    rows = offsets[best_lines(costs)[1]]
    narrowest = int(rows.min())
    return replace(widths, bell=replace(bell, rung=bell.rung + RUNGS_PER_CLASS * narrowest), rows=rows - narrowest)


def _mended(widths: _Widths, symbols: Int[np.ndarray, "R C"], bins: Bins) -> _Widths:
    """Move the bell's form, rung and centre to the cheapest neighbour until there is none, and add up."""
    counts = _count_by_sum(symbols, widths.rows, widths.columns, bins)
    ladder = RUNGS_PER_CLASS * np.arange(len(counts))

    def price(bell: Bell) -> float:
        return float((counts * bins.prices(bell, bell.rung + ladder)).sum())

    best, cost = widths.bell, price(widths.bell)
    while True:
        moves = [
            replace(best, **{name: getattr(best, name) + step})
            for name in ("shape", "tail", "rung", "centre")
            for step in (-1, 1)
        ]
        found = min((move for move in moves if _is_possible(move, int(ladder[-1]))), key=price)
        if price(found) >= cost:
            break
        best, cost = found, price(found)
    said = sum(_entropy_bits(classes) for classes in (widths.rows, widths.columns))
    return replace(widths, bell=best, cost=cost + COST_UNITS * said)


def _count_by_sum(
    symbols: Int[np.ndarray, "R C"], rows: Int[np.ndarray, " R"], columns: Int[np.ndarray, " C"], bins: Bins
) -> Float[np.ndarray, "K B"]:
    """Count symbols by the sum of their row's class and their column's."""
    counts = np.zeros((int(rows.max() + columns.max()) + 1, len(bins.middles)))
    for of_row in np.unique(rows):
        part = symbols[rows == of_row]
        for of_column in np.unique(columns):
            counts[of_row + of_column] += bins.count(part[:, columns == of_column].reshape(1, -1))[0]
    return counts


def _entropy_bits(classes: Int[np.ndarray, " N"]) -> float:
    counts = np.bincount(classes)
    return float(sum(count * np.log2(len(classes) / count) for count in counts.tolist() if count))


def _is_possible(bell: Bell, reach: int) -> bool:
    return Bell.is_possible(bell.shape, bell.tail) and bell.rung >= 0 and bell.rung + reach < NUM_RUNGS
