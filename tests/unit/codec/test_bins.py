import numpy as np
import pytest

import codec_arrays
from nutshell.codec.bins import Bins
from nutshell.codec.chain import encode
from nutshell.codec.models import Bell, Support


def bins_around(median, size, low=0):
    counts = np.zeros(size, np.int64)
    counts[median] = 1
    return Bins.of(Support(low, size), counts)


def test_symbols_near_the_median_are_alone_and_others_share_by_octaves():
    bins = bins_around(median=300, size=1000, low=-300)
    assert (np.diff(bins.labels) >= 0).all()
    for place, (label, width, middle) in enumerate(zip(np.unique(bins.labels), bins.widths, bins.middles, strict=True)):
        members = np.flatnonzero(bins.labels == label)
        assert (label, len(members)) == (place, width)
        assert members[0] <= middle + 300 <= members[-1]
        distance = min(abs(members - 300))
        assert width == 1 if distance < 32 else width <= distance * (2 ** (1 / 16) - 1) + 1
    assert len(bins.middles) < 63 + 2 * 16 * 5


def test_bins_are_counted_by_row_or_all_together_where_that_is_too_much(monkeypatch):
    symbols = np.array([[0, 1, 1, 99], [5, 5, 5, 98]])
    bins = bins_around(median=1, size=100)
    assert bins.labels[98] == bins.labels[99]
    by_row = bins.count(symbols)
    assert by_row[:, [0, 1, 5, bins.labels[99]]].tolist() == [[1, 2, 0, 1], [0, 0, 3, 1]]
    monkeypatch.setattr("nutshell.codec.bins.MAX_COUNTS", 100)
    np.testing.assert_array_equal(bins.count(symbols), by_row.sum(axis=0, keepdims=True))


@pytest.mark.parametrize("bell", [Bell(0, 8, 8, 60), Bell(3, 4, 20, 90), Bell(-2, 8, 2, 120)])
def test_the_price_of_a_bin_is_about_that_of_its_symbols(bell):
    support = Support(-2000, 4001)
    bins, rungs = bins_around(median=2000, size=4001, low=-2000), np.array([bell.rung, bell.rung + 20])
    exact = 24 - np.log2(bell.at_rungs(rungs, support))
    binned = bins.prices(bell, rungs)[:, bins.labels] / 2**16
    shares = 2.0**-exact
    np.testing.assert_allclose((shares * binned).sum(axis=1), (shares * exact).sum(axis=1), atol=1e-3)


def test_one_weight_far_out_leaves_rows_and_columns_their_widths(monkeypatch):
    codes = codec_arrays.planes_of_many_widths().astype(np.int16)
    far = codes.copy()
    far[7, 7] = 300
    for module in ("bins", "plane_fitting"):
        monkeypatch.setattr(f"nutshell.codec.{module}.MAX_COUNTS", 10_000)  # 40 rows of 331 symbols have more
    assert len(encode(far, ("ans",))) <= len(encode(codes, ("ans",))) + 40
