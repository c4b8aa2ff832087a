import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutshell.config.curve import check_curve, value_at, values_of

fractions = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
values = st.floats(-100.0, 100.0)


@st.composite
def curves(draw):
    places = sorted(draw(st.sets(fractions, min_size=2, max_size=6)))
    return tuple((place, draw(values)) for place in places)


def reference(curve, progress):
    """Straight from the definition: search the neighbours, weigh them by distance."""
    below = [point for point in curve if point[0] <= progress]
    above = [point for point in curve if point[0] > progress]
    if not below or not above:
        return curve[0][1] if not below else curve[-1][1]
    (x0, y0), (x1, y1) = below[-1], above[0]
    return (y0 * (x1 - progress) + y1 * (progress - x0)) / (x1 - x0)


@given(values, fractions)
def test_a_number_is_that_number_throughout(number, progress):
    assert value_at(number, progress) == number
    assert values_of(number) == (number,)


@given(curves(), fractions)
def test_between_points_it_is_linear_and_outside_constant(curve, progress):
    assert value_at(curve, progress) == pytest.approx(reference(curve, progress), abs=1e-9)


@given(curves())
def test_it_goes_exactly_through_its_points(curve):
    for place, value in curve:
        assert value_at(curve, place) == value


@given(curves(), fractions)
def test_it_stays_within_its_values(curve, progress):
    assert min(values_of(curve)) - 1e-12 <= value_at(curve, progress) <= max(values_of(curve)) + 1e-12


@given(curves())
def test_every_curve_of_rising_points_and_different_values_is_one(curve):
    if len(set(values_of(curve))) > 1:
        check_curve("x", curve, -100.0, 100.0)


def test_a_warmdown_as_published():
    curve = ((0.28, 1.0), (1.0, 0.0))
    for progress in (0.0, 0.28, 0.3, 0.64, 0.99, 1.0):
        assert value_at(curve, progress) == pytest.approx(min(1.0, (1.0 - progress) / 0.72))


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (1.5, r"x must lie in \[0, 1\], got 1.5"),
        (math.nan, r"x must lie in \[0, 1\], got nan"),
        (((0.0, 0.0), (1.0, 2.0)), r"x must lie in \[0, 1\], got 2.0"),
        (((0.0, 0.0), (1.1, 1.0)), r"x: the points' progress must rise within 0 and 1, got \[0.0, 1.1\]"),
        (((0.5, 0.0), (0.5, 1.0)), "must rise"),
        (((0.5, 0.0), (0.2, 1.0)), "must rise"),
        (((math.nan, 0.0), (0.2, 1.0)), "must rise"),
        (((0.5, 1.0),), r"x: points need two values that differ, got \[\[0.5, 1.0\]\]"),
        (((0.0, 1.0), (1.0, 1.0)), "two values that differ"),
        ((), "two values that differ"),
    ],
)
def test_what_is_no_curve(curve, message):
    with pytest.raises(ValueError, match=message):
        check_curve("x", curve, 0.0, 1.0)


def test_infinity_is_no_value_even_without_a_bound():
    with pytest.raises(ValueError, match="x must lie at 0 or above, got inf"):
        check_curve("x", math.inf, 0.0, math.inf)
