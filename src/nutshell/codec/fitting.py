"""Choose the static model that codes an array in the fewest bits, table included.

Only an encoder comes here. Costs are kept in whole 1/65536 bits, so that sums over counts are exact in float64 and the
choice depends neither on the order of summation nor on the number of threads.
"""

import math
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

_COST_UNITS = 1 << 16  # times 24 bits and 2^30 codes stays below 2^53
_MAX_COUNTS = 1 << 24  # entries of the table of counts by row: 128 MB
_ROUGH_SIZE = 1 << 12  # symbols from which one form and octaves of width must do: no quantizer makes so many
_NEIGHBOURS = [(shape, tail) for shape in (-1, 0, 1) for tail in (-1, 0, 1) if (shape, tail) != (0, 0)]


@dataclass(frozen=True)
class Fit:
    """A model, what coding with it costs (table included), and, if rows differ, the class of each row."""

    model: StaticModel
    bits: float
    classes: Int[np.ndarray, " R"] | None = None


def fit(symbols: Int[np.ndarray, "R C"], low: int) -> Fit:
    """Find the cheapest model; `symbols` are codes less `low`, their minimum."""
    support = Support(low, size=int(symbols.max()) + 1)
    counts = _count(symbols, support.size)
    total = counts.sum(axis=0, keepdims=True)
    histogram = StaticModel(support, Histogram.of(total[0]))
    fits = [
        _fit_whole(total, support),
        Fit(histogram, _bits(histogram, float(total[0] @ _prices(histogram.frequencies())))),
    ]
    if len(counts) > 1:
        by_rows = _fit_rows(counts, support)
        if by_rows.model.suits(symbols.shape):
            fits.append(by_rows)
    return min(fits, key=lambda fit: fit.bits)


def _fit_whole(counts: Float[np.ndarray, "1 N"], support: Support) -> Fit:
    """Fit one bell; the rungs that classes leave out come last, which is four times faster and misses nothing."""
    bell, [rung], _ = _fit_bell(counts, support)
    near = np.arange(max(rung - RUNGS_PER_CLASS, 0), min(rung + RUNGS_PER_CLASS, NUM_RUNGS))
    cost, [choice] = _best_rungs(counts, _prices(bell.at_rungs(near, support)))
    model = StaticModel(support, replace(bell, rung=int(near[choice])))
    return Fit(model, _bits(model, cost))


def _fit_rows(counts: Float[np.ndarray, "R N"], support: Support) -> Fit:
    """Fit one bell for all rows but for its rung."""
    bell, rungs, cost = _fit_bell(counts, support)
    narrowest = int(rungs.min())
    classes = (rungs - narrowest) // RUNGS_PER_CLASS
    fitted = fit(classes[None], low=0)
    model = StaticModel(support, RowBells(replace(bell, rung=narrowest), fitted.model))
    table_twice = 8 * len(fitted.model.to_bytes())  # once in fitted.bits, once in the model's own table
    return Fit(model, _bits(model, cost) + fitted.bits - table_twice, classes)


def _count(symbols: Int[np.ndarray, "R C"], size: int) -> Float[np.ndarray, "R N"]:
    """Count symbols by row, or all together where that table would be too large."""
    if len(symbols) * size > _MAX_COUNTS:
        symbols = symbols.reshape(1, -1)
    places = symbols + size * np.arange(len(symbols))[:, None]
    return np.bincount(places.ravel(), minlength=len(symbols) * size).reshape(-1, size).astype(np.float64)


def _prices(frequencies: Int[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return np.rint(_COST_UNITS * (PRECISION_BITS - np.log2(frequencies)))


def _bits(model: StaticModel, cost: float) -> float:
    return 8 * len(model.to_bytes()) + cost / _COST_UNITS


def _fit_bell(counts: Float[np.ndarray, "R N"], support: Support) -> tuple[Bell, Int[np.ndarray, " R"], float]:
    """Fit the centre by the mean, shape and tail by descent from a normal distribution, and the best rung for each row.

    Returns:
        The bell (its own rung means nothing), a rung for each row, whole classes apart, and the cost.
    """
    totals = counts.sum(axis=0)
    values = np.arange(support.low, support.low + support.size)
    centre = round(4 * float(totals @ values) / float(totals.sum()))
    deviations = np.sqrt(counts @ (values - centre / 4) ** 2 / counts.sum(axis=1))
    near = [_rung_of(math.sqrt(2) * float(deviation)) for deviation in (deviations.min(), deviations.max())]
    is_rough = support.size > _ROUGH_SIZE
    # Heavy tails want a bell narrower than their deviation says, flat codes a much wider one.
    ladder = np.arange(max(near[0] - 24, 0), min(near[1] + 49, NUM_RUNGS), 16 if is_rough else RUNGS_PER_CLASS)

    known: dict[tuple[int, int], tuple[float, Int[np.ndarray, " R"]]] = {}

    def price(form: tuple[int, int]) -> float:
        if form not in known:
            known[form] = _best_rungs(counts, _prices(Bell(centre, *form, rung=0).at_rungs(ladder, support)))
        return known[form][0]

    best, nearest = None, (8, 8)
    while best is None or price(nearest) < price(best):
        best = nearest
        if not is_rough:
            forms = [(best[0] + shape, best[1] + tail) for shape, tail in _NEIGHBOURS]
            nearest = min((form for form in forms if 1 <= form[0] <= MAX_SHAPE and 0 <= form[1] <= MAX_TAIL), key=price)
    cost, choice = known[best]
    return Bell(centre, *best, rung=0), ladder[choice], cost


def _rung_of(width: float) -> int:
    """Find the rung of about this width, in codes."""
    return min(max(round(16 * math.log2(max(8 * width, 1))), 0), NUM_RUNGS - 1)


def _best_rungs(
    counts: Float[np.ndarray, "R N"], prices: Float[np.ndarray, "K N"]
) -> tuple[float, Int[np.ndarray, " R"]]:
    """Choose for each row the line of prices that makes it cheapest, the price of saying so included."""
    costs = counts @ prices.T  # R K
    choice = np.argmin(costs, axis=1)
    for _ in range(2 if len(counts) > 1 else 0):
        uses = np.bincount(choice, minlength=len(prices))
        saying_so = np.rint(_COST_UNITS * np.log2(len(counts) / (uses + 1 / 64)))
        choice = np.argmin(costs + saying_so, axis=1)
    return float(np.take_along_axis(costs, choice[:, None], axis=1).sum()), choice
