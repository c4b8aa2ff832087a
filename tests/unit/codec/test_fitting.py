import numpy as np
import pytest

import codec_arrays
from nutshell.codec.fitting import fit
from nutshell.codec.models import Bell, Histogram, RowBells


def entropy_bits(symbols):
    counts = np.bincount(symbols.ravel())
    counts = counts[counts > 0]
    return float(counts @ np.log2(symbols.size / counts))


def fit_codes(codes):
    low = int(codes.min())
    return fit(codes.astype(np.int64) - low, low)


def test_normal_codes_get_a_normal_bell_at_their_entropy():
    codes = codec_arrays.one_bell()
    fitted = fit_codes(codes)
    assert isinstance(fitted.model.distribution, Bell)
    assert len(fitted.model.to_bytes()) <= 8
    assert fitted.bits == pytest.approx(entropy_bits(codes - codes.min()), rel=0.03)


def test_rows_that_differ_in_width_get_rungs_of_their_own():
    codes = codec_arrays.rows_of_many_widths()
    fitted = fit_codes(codes)
    assert isinstance(fitted.model.distribution, RowBells)
    assert fitted.classes is not None
    # Widths double from row to row, seven in turn: four quarter octaves each, one more or less by chance.
    steps = np.diff(fitted.classes.reshape(-1)[:7])
    assert set(steps) <= {2, 3, 4, 5, 6}
    assert fitted.bits < 0.9 * entropy_bits(codes - codes.min())


def test_what_has_no_bell_gets_a_histogram():
    codes = np.repeat(np.array([0, 3, 7], np.uint8), [500, 20, 480])
    fitted = fit_codes(codes[None])
    assert isinstance(fitted.model.distribution, Histogram)
    assert fitted.bits == pytest.approx(entropy_bits(codes) + 8 * len(fitted.model.to_bytes()), rel=0.01)


def test_the_claimed_bits_are_the_cost_under_the_model():
    codes = codec_arrays.rows_of_many_widths()
    fitted = fit_codes(codes)
    assert isinstance(fitted.model.distribution, RowBells)
    assert fitted.classes is not None
    bits = 8 * len(fitted.model.to_bytes())
    tables = 24 - np.log2(fitted.model.distribution.by_class(fitted.model.support))
    for row, number in zip(codes - codes.min(), fitted.classes, strict=True):
        bits += tables[number][row].sum()
    bits += (24 - np.log2(fitted.model.distribution.classes.frequencies()))[fitted.classes].sum()
    assert fitted.bits == pytest.approx(bits, rel=1e-5)


def test_a_table_of_rows_is_not_used_where_it_has_more_entries_than_there_are_codes():
    codes = np.rint(codec_arrays.noise(2 * 16).reshape(2, 16) * [[1], [300]]).astype(np.int64)
    assert not isinstance(fit_codes(codes).model.distribution, RowBells)
