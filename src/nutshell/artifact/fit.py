"""Reach a byte budget: the finest precision whose artifact is not larger.

One number, about the mean coded bits a weight, moves all open steps together: the same slope everywhere. Size is almost
linear in it. So the first packing is at the rate that a size model gives, each next one where a line through the last
sizes meets the budget, and a few of them are enough. Every size is that of real bytes, whole file and worst case.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from nutshell.artifact.config import PackConfig
from nutshell.artifact.pack import Contents, Packed, Packer, is_fitted
from nutshell.errors import BudgetError
from nutshell.quant.statistics import Statistics
from nutshell.units import format_bytes

LOWEST_RATE_BITS, HIGHEST_RATE_BITS = 0.25, 8.0
SLACK_FRAC = 5e-4  # of the limit: what may stay unused
MOST_PACKINGS = 16  # where a size jumps, at a tiny model's changes of coding, the slack cannot be met
FRAME_BYTES = 600  # of head, manifest and digest, for the first guess alone
_NEAREST_BITS = 1e-4  # precisions nearer to each other than this are one

Progress = Callable[[int, int], None]


class Point(NamedTuple):
    """A precision that was tried, and the bytes that came of it."""

    rate_bits: float
    num_bytes: int


class Fit(NamedTuple):
    """What was packed, and the sizes that were met on the way.

    `bytes_per_bit` is what another coded bit a weight would cost; None where nothing is open.
    """

    packed: Packed
    points: tuple[Point, ...]
    bytes_per_bit: float | None


def fit(
    contents: Contents,
    config: PackConfig,
    progress: Progress | None = None,
    *,
    statistics: Mapping[str, Statistics] | None = None,
    workers: int | None = None,
) -> Fit:
    """Pack within `config.limit_bytes`.

    Args:
        contents: what goes into the artifact.
        config: rules and budget.
        progress: is told how many packings of at most how many are done.
        statistics: of the matrices whose rules use them.
        workers: matrices at a time; as many as there are processors unless given.

    Raises:
        BudgetError: even the coarsest precision is larger, or the rules fix a precision that is.
    """
    packer = Packer(contents, config, statistics, workers=workers)
    if not is_fitted(config) or not packer.num_open_weights:
        precision = LOWEST_RATE_BITS if is_fitted(config) else None
        return Fit(_must_fit(packer.pack(precision), config, "the precision that its rules fix"), (), None)
    limit = config.limit_bytes
    search = Search(limit, first=_guess(packer, limit), bytes_per_bit=packer.num_open_weights / 8)
    best: Packed | None = None
    while (rate := search.next()) is not None:
        packed = packer.pack(rate)
        search.note(Point(rate, len(packed.content)))
        if progress:
            progress(len(search.points), MOST_PACKINGS)
        if rate == LOWEST_RATE_BITS:
            _must_fit(packed, config, f"{rate:g} bits a weight")
        if search.is_best(search.points[-1]):
            best = packed
    assert best is not None, "the coarsest precision was tried last, and it fits or was refused"
    return Fit(best, tuple(search.points), search.bytes_per_bit())


class Search:
    """The next rate to try, from the sizes met so far.

    Args:
        limit: bytes that may not be exceeded.
        first: rate to begin with.
        bytes_per_bit: what a bit a weight costs, until two sizes say so.
    """

    def __init__(self, limit: int, *, first: float, bytes_per_bit: float) -> None:
        self._limit, self._first, self._bytes_per_bit = limit, first, bytes_per_bit
        self._aim = (1 - SLACK_FRAC / 2) * limit  # inside the slack, not at its edge
        self.points: list[Point] = []

    def note(self, point: Point) -> None:
        """Take notice of a size."""
        self.points.append(point)

    def next(self) -> float | None:
        """Give the next rate; None where the search has ended."""
        if not self.points:
            return self._first
        below, above = self._below(), self._above()
        if below and (below.num_bytes >= (1 - SLACK_FRAC) * self._limit or below.rate_bits == HIGHEST_RATE_BITS):
            return None
        if above and above.rate_bits == LOWEST_RATE_BITS:
            return None
        if len(self.points) >= MOST_PACKINGS or (below and above and above.rate_bits - below.rate_bits < _NEAREST_BITS):
            return None if below else LOWEST_RATE_BITS
        if below and above:
            share = (self._aim - below.num_bytes) / (above.num_bytes - below.num_bytes)
            # Clear of both ends, which a flat stretch would pull us to.
            return below.rate_bits + min(max(share, 0.05), 0.95) * (above.rate_bits - below.rate_bits)
        near = below or above
        assert near is not None
        rate = near.rate_bits + (self._aim - near.num_bytes) / self._slope_near()
        return min(max(rate, LOWEST_RATE_BITS), HIGHEST_RATE_BITS)

    def is_best(self, point: Point) -> bool:
        """Say whether a point is the finest that fits."""
        return point == self._below()

    def bytes_per_bit(self) -> float:
        """Give the bytes that a bit a weight costs: the slope from the coarsest precision tried to the finest."""
        return self._slope(min(self.points), max(self.points))

    def _slope(self, one: Point, other: Point) -> float:
        """Give the bytes that a bit a weight costs from one point to another; where they cannot say, what was told."""
        if one.rate_bits == other.rate_bits:
            return self._bytes_per_bit
        slope = (other.num_bytes - one.num_bytes) / (other.rate_bits - one.rate_bits)
        return slope if slope > 0 else self._bytes_per_bit

    def _slope_near(self) -> float:
        """Give it near the limit, by the two sizes nearest to it."""
        nearest = sorted(self.points, key=lambda point: abs(point.num_bytes - self._aim))
        return self._slope(nearest[0], nearest[min(1, len(nearest) - 1)])

    def _below(self) -> Point | None:
        return max((point for point in self.points if point.num_bytes <= self._limit), default=None)

    def _above(self) -> Point | None:
        below = self._below()
        floor = below.rate_bits if below else 0.0
        over = [point for point in self.points if point.num_bytes > self._limit and point.rate_bits > floor]
        return min(over, default=None)


def _guess(packer: Packer, limit: int) -> float:
    """Give the rate at which normal weights would fill what the settled sections leave."""
    left = limit - packer.settled_bytes - FRAME_BYTES
    rate = 8 * left / packer.num_open_weights - packer.mean_extra_bits
    return min(max(rate, LOWEST_RATE_BITS), HIGHEST_RATE_BITS)


def _must_fit(packed: Packed, config: PackConfig, precision: str) -> Packed:
    if len(packed.content) > config.limit_bytes:
        less = f" less a margin of {format_bytes(config.margin_bytes)}" if config.margin_bytes else ""
        raise BudgetError(
            f"the artifact has {format_bytes(len(packed.content))} at {precision}, over the budget of "
            f"{format_bytes(config.budget_bytes)}{less}; raise the budget or train a smaller model"
        )
    return packed
