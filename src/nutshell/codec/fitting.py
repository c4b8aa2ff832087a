"""Choose the static model that codes an array in the fewest bits, table included.

Only an encoder comes here. Costs are kept in whole 1/65536 bits, so that sums over counts are exact in float64 and the
choice depends neither on the order of summation nor on the number of threads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from nutshell.codec.models import (
    MAX_SHAPE,
    MAX_TAIL,
    NUM_RUNGS,
    PRECISION_BITS,
    RUNGS_PER_CLASS,
    Bell,
    Histogram,
    RowBells,
    StaticModel,
    Support,
)

_COST_UNITS = 1 << 16  # times 24 bits and 2^28 codes stays below 2^53
_MAX_ROW_TABLE = 1 << 24  # entries of the table of counts by row: 128 MB


@dataclass(frozen=True)
class Fit:
    """A model, what coding with it costs, and, if rows differ, the class of each row."""

    model: StaticModel
    bits: float
    classes: Int[np.ndarray, " R"] | None = None


def fit(symbols: Int[np.ndarray, "R C"], low: int) -> Fit:
    """Find the cheapest model; `symbols` are codes less `low`, their minimum."""
    size = int(symbols.max()) + 1
    support, num_rows = Support(low, size), len(symbols)
    if num_rows > 1 and num_rows * size <= _MAX_ROW_TABLE:
        row_starts = np.arange(num_rows)[:, None] * size
        by_row = np.bincount((symbols + row_starts).ravel(), minlength=num_rows * size).reshape(num_rows, size)
    else:
        by_row = np.bincount(symbols.ravel(), minlength=size)[None]
    counts = by_row.sum(axis=0)
    bell = _fit_bell(counts, support)
    fits = [
        _total(StaticModel(support, Histogram.of(counts)), counts),
        _total(StaticModel(support, bell), counts),
    ]
    if len(by_row) > 1:
        fits.append(_fit_row_bells(by_row, support, bell))
    return min(fits, key=lambda fit: fit.bits)


def _costs(frequencies: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Price every symbol, in whole 1/65536 bits."""
    return np.rint(_COST_UNITS * (PRECISION_BITS - np.log2(frequencies)))


def _total(model: StaticModel, counts: Int[np.ndarray, " N"]) -> Fit:
    """Add up table and codes for a model without rows."""
    cost = counts @ _costs(model.frequencies())
    return Fit(model, 8 * len(model.to_bytes()) + float(cost) / _COST_UNITS)


def _descend(start: Bell, steps: list[dict[str, int]], cost_of: Callable[[Bell], float]) -> Bell:
    """Move to the cheapest neighbour until there is none cheaper."""
    known: dict[Bell, float] = {}

    def price(bell: Bell) -> float:
        if bell not in known:
            valid = 1 <= bell.shape <= MAX_SHAPE and 0 <= bell.tail <= MAX_TAIL and 0 <= bell.rung < NUM_RUNGS
            known[bell] = cost_of(bell) if valid else math.inf
        return known[bell]

    best = start
    while True:
        neighbours = [
            replace(best, **{name: getattr(best, name) + step for name, step in move.items()}) for move in steps
        ]
        nearest = min(neighbours, key=price)
        if price(nearest) >= price(best):
            return best
        best = nearest


def _fit_bell(counts: Int[np.ndarray, " N"], support: Support) -> Bell:
    """Fit the centre by the mean; shape, tail and rung by descent from the normal distribution of the same variance."""
    total = int(counts.sum())
    values = np.arange(support.low, support.low + support.size)
    centre = round(4 * int(counts @ values) / total)
    variance = float(counts @ (values - centre / 4) ** 2) / total
    width = max(math.sqrt(2 * variance), 1 / 8)
    rung = min(round(16 * math.log2(8 * width)), NUM_RUNGS - 1)
    steps = [
        {"shape": shape, "tail": tail, "rung": rung}
        for shape in (0, -1, 1)
        for tail in (0, -1, 1)
        for rung in (0, -1, 1, -2, 2, -4, 4, -8, 8)
    ]
    return _descend(
        Bell(centre, shape=8, tail=8, rung=rung),
        steps,
        lambda bell: float(counts @ _costs(bell.frequencies(support))),
    )


def _fit_row_bells(by_row: Int[np.ndarray, "R N"], support: Support, start: Bell) -> Fit:
    """Fit shape and tail, common to all rows, with the best rung for every row."""
    counts = by_row.astype(np.float64)
    steps = [{"shape": shape, "tail": tail} for shape in (0, -1, 1) for tail in (0, -1, 1)]
    bell = _descend(start, steps, lambda bell: _assign(counts, support, bell)[1])
    rungs, cost = _assign(counts, support, bell)
    narrowest = int(rungs.min())
    classes = (rungs - narrowest) // RUNGS_PER_CLASS
    of_classes = fit(classes[None], low=0)
    model = StaticModel(support, RowBells(replace(bell, rung=narrowest), of_classes.model))
    # of_classes.bits counts its own table, which model.to_bytes() holds too.
    bits = 8 * (len(model.to_bytes()) - len(of_classes.model.to_bytes())) + of_classes.bits + cost / _COST_UNITS
    return Fit(model, bits, classes)


def _assign(counts: Float[np.ndarray, "R N"], support: Support, bell: Bell) -> tuple[Int[np.ndarray, " R"], float]:
    """Give every row the rung that codes it and its own number most cheaply; also the cost of the codes alone."""
    ladder = np.arange(bell.rung % RUNGS_PER_CLASS, NUM_RUNGS, RUNGS_PER_CLASS)
    prices = np.stack([_costs(replace(bell, rung=int(rung)).frequencies(support)) for rung in ladder], axis=1)
    cost = counts @ prices  # R K
    choice = np.argmin(cost, axis=1)
    for _ in range(2):
        used = np.bincount(choice, minlength=len(ladder))
        surprise = np.rint(_COST_UNITS * -np.log2((used + 1 / 64) / len(choice)))
        choice = np.argmin(cost + surprise, axis=1)
    return ladder[choice], float(np.take_along_axis(cost, choice[:, None], axis=1).sum())
