"""Choose the static model that codes an array in the fewest bits, table included.

Only an encoder comes here. Costs are kept in whole 1/65536 bits, so that sums over counts are exact in float64 and the
choice depends neither on the order of summation nor on the number of threads.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from nutshell.codec.bins import COST_UNITS, Bins
from nutshell.codec.models import (
    NUM_RUNGS,
    PRECISION_BITS,
    RUNGS_PER_CLASS,
    Bell,
    Histogram,
    StaticModel,
    Support,
)


@dataclass(frozen=True)
class Fit:
    """A model, what coding with it costs (table included), and the classes of rows and columns, 0 where it has none."""

    model: StaticModel
    bits: float
    rows: Int[np.ndarray, " R"]
    columns: Int[np.ndarray, " C"]


def fit(symbols: Int[np.ndarray, "R C"], low: int) -> Fit:
    """Find the cheapest model that is one for all; `symbols` are codes less `low`, their minimum."""
    support = Support(low, size=int(symbols.max()) + 1)
    counts = np.bincount(symbols.ravel(), minlength=support.size)
    bins = Bins.of(support, counts)
    models = (
        StaticModel(support, Histogram.of(counts)),
        StaticModel(support, _fit_whole(bins.count(symbols.reshape(1, -1)), bins)),
    )
    costs = [model_bits(model, counts[None]) for model in models]
    rows, columns = (np.zeros(count, np.int64) for count in symbols.shape)
    return Fit(models[int(np.argmin(costs))], min(costs), rows, columns)


def _fit_whole(counts: Float[np.ndarray, "1 B"], bins: Bins) -> Bell:
    """Fit one bell: first on the rungs that rows have, then on all rungs near the best, which is four times faster."""
    bell, [rung], _ = _descend(_normal_bell(counts, bins), _ladder(counts, bins), counts, bins)
    near = np.arange(max(rung - RUNGS_PER_CLASS, 0), min(rung + RUNGS_PER_CLASS, NUM_RUNGS - 1) + 1)
    bell, [rung], _ = _descend(bell, near, counts, bins)
    return replace(bell, rung=int(rung))


def model_bits(model: StaticModel, counts: Int[np.ndarray, "K N"]) -> float:
    """Give what a model's table and some symbols cost, which are counted by class."""
    units = np.rint(COST_UNITS * (PRECISION_BITS - np.log2(model.by_class())))
    return 8 * len(model.to_bytes()) + float((counts * units).sum()) / COST_UNITS


def _normal_bell(counts: Float[np.ndarray, "R B"], bins: Bins) -> Bell:
    """A normal distribution around the mean; its rung means nothing yet."""
    totals = counts.sum(axis=0)
    return Bell(centre=round(4 * float(totals @ bins.middles) / float(totals.sum())), shape=8, tail=8, rung=0)


def _ladder(counts: Float[np.ndarray, "R B"], bins: Bins) -> Int[np.ndarray, " K"]:
    """The rungs worth trying, a class apart: around those that normal rows of these deviations would have."""
    places = bins.middles - bins.middles[0]
    sizes = counts.sum(axis=1)
    variances = counts @ places**2 / sizes - (counts @ places / sizes) ** 2
    narrowest, widest = (
        min(round(16 * math.log2(max(8 * math.sqrt(2 * variance), 1))), NUM_RUNGS - 1)
        for variance in (max(float(variances.min()), 0), float(variances.max()))
    )
    # Heavy tails want a bell narrower than their deviation says, flat codes a much wider one.
    return np.arange(max(narrowest - 24, 0), min(widest + 49, NUM_RUNGS), RUNGS_PER_CLASS)


def descend(counts: Float[np.ndarray, "R B"], bins: Bins) -> tuple[Bell, Int[np.ndarray, " R"], float]:
    """Find the cheapest bell for all rows but for its rung.

    Returns:
        The bell, the rung of each row, and the cost of the codes.
    """
    return _descend(_normal_bell(counts, bins), _ladder(counts, bins), counts, bins)


def _descend(
    bell: Bell, ladder: Int[np.ndarray, " K"], counts: Float[np.ndarray, "R B"], bins: Bins
) -> tuple[Bell, Int[np.ndarray, " R"], float]:
    """Improve shape and tail until no neighbour is cheaper, every row on its best rung of the ladder.

    Returns:
        The bell, the rung of each row, and the cost of the codes.
    """
    known: dict[Bell, tuple[float, Int[np.ndarray, " R"]]] = {}

    def price(bell: Bell) -> float:
        if bell not in known:
            known[bell] = best_lines(counts @ bins.prices(bell, ladder).T)
        return known[bell][0]

    def neighbours(bell: Bell) -> list[Bell]:
        forms = [(bell.shape + shape, bell.tail + tail) for shape in (0, -1, 1) for tail in (0, -1, 1)]
        return [replace(bell, shape=shape, tail=tail) for shape, tail in forms if Bell.is_possible(shape, tail)]

    # The bell is its own first neighbour, and of equals the first is taken: this ends.
    while (nearest := min(neighbours(bell), key=price)) != bell:
        bell = nearest
    cost, choice = known[bell]
    return bell, ladder[choice], cost


def best_lines(costs: Float[np.ndarray, "R K"]) -> tuple[float, Int[np.ndarray, " R"]]:
    """Choose for each row the line that makes it cheapest, the price of saying so included; and the sum of costs."""
    choice = np.argmin(costs, axis=1)
    for _ in range(2 if len(costs) > 1 else 0):
        uses = np.bincount(choice, minlength=costs.shape[1])
        saying_so = np.rint(COST_UNITS * np.log2(len(costs) / (uses + 1 / 64)))
        choice = np.argmin(costs + saying_so, axis=1)
    return float(np.take_along_axis(costs, choice[:, None], axis=1).sum()), choice
