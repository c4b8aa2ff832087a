"""A number that changes over a run: a constant, or points of progress and value."""

import math
from itertools import pairwise

# Constant, or (progress, value) points: linear between them, constant before the first and after the last.
Curve = float | tuple[tuple[float, float], ...]


def value_at(curve: Curve, progress: float) -> float:
    """Give a curve's value where `progress` of the run, in [0, 1], is done."""
    if isinstance(curve, int | float):
        return float(curve)
    before = curve[0]
    for point in curve:
        if progress < point[0]:
            return _between(before, point, progress)
        before = point
    return before[1]


def values_of(curve: Curve) -> tuple[float, ...]:
    """Give the values that a curve runs through; the smallest and the largest of the whole run are among them."""
    return (float(curve),) if isinstance(curve, int | float) else tuple(value for _, value in curve)


def check_curve(name: str, curve: Curve, low: float, high: float) -> None:
    """Refuse a curve that is malformed, leaves [`low`, `high`], or has points without being a curve.

    Raises:
        ValueError: with the curve's name.
    """
    if outside := [value for value in values_of(curve) if not (math.isfinite(value) and low <= value <= high)]:
        raise ValueError(f"{name} must lie {_range(low, high)}, got {outside[0]}")
    if isinstance(curve, int | float):
        return
    places = [place for place, _ in curve]
    if not all(0.0 <= place <= 1.0 for place in places) or not all(a < b for a, b in pairwise(places)):
        raise ValueError(f"{name}: the points' progress must rise within 0 and 1, got {places}")
    if len(set(values_of(curve))) < 2:
        raise ValueError(f"{name}: points need two values that differ, got {[list(point) for point in curve]}")


def _between(before: tuple[float, float], after: tuple[float, float], progress: float) -> float:
    """Interpolate; the first point is before itself, so a curve is constant up to it."""
    (start, first), (stop, last) = before, after
    if stop <= start:
        return first
    return first + (last - first) * (progress - start) / (stop - start)


def _range(low: float, high: float) -> str:
    return f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"at {low:g} or above"
