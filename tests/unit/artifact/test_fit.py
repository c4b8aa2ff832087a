"""The search for a budget, on sizes by formula: few packings, and never one byte over."""

import pytest

from nutshell.artifact.fit import HIGHEST_RATE_BITS, LOWEST_RATE_BITS, MOST_PACKINGS, SLACK_FRAC, Point, Search


def search(size, limit, first, bytes_per_bit):
    found = Search(limit, first=first, bytes_per_bit=bytes_per_bit)
    while (rate := found.next()) is not None:
        assert LOWEST_RATE_BITS <= rate <= HIGHEST_RATE_BITS
        found.note(Point(rate, size(rate)))
    best = max((point for point in found.points if point.num_bytes <= limit), default=None)
    return best, len(found.points)


def curved(rate):
    """Half a million weights: a linear size with the curve and the offset that coarse steps have."""
    return round(20_000 + 62_500 * (rate + 0.12 * 2.0**-rate))


@pytest.mark.parametrize("limit", [150_000, 250_000, 333_333, 480_000])
@pytest.mark.parametrize("off", [-0.3, -0.01, 0.0, 0.02, 0.5])
def test_a_smooth_size_takes_four_packings_at_most(limit, off):
    guess = (limit - 20_000) / 62_500 + off
    best, packings = search(curved, limit, min(max(guess, 1.0), 8.0), 60_000)
    assert (1 - SLACK_FRAC) * limit <= best.num_bytes <= limit
    assert packings <= 4


def test_a_size_that_jumps_ends_at_the_finest_that_fits():
    def steps(rate):
        return 1_000 * int(10 * rate)

    best, packings = search(steps, 50_500, 3.0, 9_000)
    assert best.num_bytes == 50_000
    assert packings <= MOST_PACKINGS + 1


def test_a_roomy_budget_ends_at_the_finest_and_an_impossible_one_at_the_coarsest():
    best, packings = search(curved, 10**9, HIGHEST_RATE_BITS, 62_500)
    assert (best.rate_bits, packings) == (HIGHEST_RATE_BITS, 1)
    best, packings = search(curved, 40_000, 1.5, 62_500)
    assert best is None
    assert packings <= 3
