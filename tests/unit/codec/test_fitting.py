import numpy as np
import pytest

import codec_arrays
from nutshell.codec.chain import decode, encode
from nutshell.codec.fitting import fit
from nutshell.codec.models import Bell, Histogram, PlaneBells
from nutshell.codec.plane_fitting import fit_plane


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


def fit_as_plane(codes):
    low = int(codes.min())
    return fit_plane(codes.astype(np.int64) - low, low)


def num_odd(classes):
    """Count the lines that are not in the commonest class: by chance a few are cheaper elsewhere."""
    return len(classes) - np.bincount(classes).max()


def test_rows_that_differ_in_width_get_rungs_of_their_own():
    codes = codec_arrays.rows_of_many_widths()
    fitted = fit_as_plane(codes)
    assert num_odd(fitted.columns) <= 4
    # Widths double from row to row, seven in turn: four quarter octaves each, one more or less by chance.
    steps = np.diff(fitted.rows[:7])
    assert set(steps) <= {2, 3, 4, 5, 6}
    assert fitted.bits < 0.9 * entropy_bits(codes - codes.min())


def test_what_has_no_bell_gets_a_histogram():
    codes = np.repeat(np.array([0, 3, 7], np.uint8), [500, 20, 480])
    fitted = fit_codes(codes[None])
    assert isinstance(fitted.model.distribution, Histogram)
    assert fitted.bits == pytest.approx(entropy_bits(codes) + 8 * len(fitted.model.to_bytes()), rel=0.01)


def test_columns_that_differ_in_width_get_classes_beside_those_of_rows():
    rows, columns = (2.0 ** (np.arange(count) % period) for count, period in ((60, 3), (80, 5)))
    codes = np.rint(3 * codec_arrays.noise(60 * 80, seed=7).reshape(60, 80) * rows[:, None] * columns).astype(np.int64)
    fitted = fit_as_plane(codes)
    # Widths double: four classes, one more or less by chance.
    assert set(np.diff(fitted.rows[:3])) <= {3, 4, 5}
    assert set(np.diff(fitted.columns[:5])) <= {3, 4, 5}
    assert num_odd(fit_as_plane(codes[:, ::5]).columns) <= 2  # columns of one width
    assert fitted.bits < 0.97 * entropy_bits(codes - codes.min())


def test_the_claimed_bits_are_the_cost_under_the_model():
    rows, columns = (2.0 ** (np.arange(count) % 3) for count in (48, 64))
    codes = np.rint(codec_arrays.noise(48 * 64, seed=2).reshape(48, 64) * rows[:, None] * columns).astype(np.int64)
    fitted = fit_as_plane(codes)
    plane = fitted.model.distribution
    assert isinstance(plane, PlaneBells)
    assert fitted.rows.any()
    assert fitted.columns.any()
    bits = 8 * len(fitted.model.to_bytes())
    tables = 24 - np.log2(plane.by_class(fitted.model.support))
    for row, number in zip(codes - codes.min(), fitted.rows, strict=True):
        bits += sum(tables[number + column][symbol] for column, symbol in zip(fitted.columns, row, strict=True))
    for model, classes in ((plane.rows, fitted.rows), (plane.columns, fitted.columns)):
        bits += (24 - np.log2(model.frequencies()))[classes].sum()
    assert fitted.bits == pytest.approx(bits, rel=1e-5)


def test_a_plane_is_not_used_where_its_table_has_more_entries_than_there_are_codes():
    codes = np.rint(codec_arrays.noise(2 * 16).reshape(2, 16) * [[1], [300]]).astype(np.int64)
    assert not fit_as_plane(codes).model.suits(codes.shape)
    restored = decode(encode(codes.astype(np.int16), ("ans",)), ("ans",), np.dtype(np.int16), codes.shape)
    np.testing.assert_array_equal(restored, codes)
