import math

import numpy as np
import pytest

from nutshell.codec.limits import gaussian_code_bits, gaussian_rate_bits


@pytest.mark.parametrize(("step", "bits"), [(0.4145, 3.328), (0.8, 2.406), (0.1575, 4.715)])
def test_the_published_entropies(step, bits):
    assert gaussian_code_bits(step) == pytest.approx(bits, abs=6e-4)


def test_fine_steps_follow_the_differential_entropy():
    for step in (0.1, 0.01):
        expected = 0.5 * math.log2(2 * math.pi * math.e) - math.log2(step)
        assert gaussian_code_bits(step) == pytest.approx(expected, abs=1e-3)


def test_coarse_steps_vanish_and_a_sample_agrees():
    assert gaussian_code_bits(100.0) == 0
    codes = np.rint(np.random.default_rng(0).standard_normal(1_000_000) / 1.5).astype(int)
    counts = np.bincount(codes - codes.min())
    counts = counts[counts > 0]
    assert gaussian_code_bits(1.5) == pytest.approx(float(counts @ np.log2(codes.size / counts)) / codes.size, abs=2e-3)


@pytest.mark.parametrize("distortion", [1e-3, 0.2, 0.9, 1.7])
def test_the_least_rate_of_normal_variables_fills_from_the_water_level(distortion):
    variances = np.array([4.0, 0.1, 1.0, 2.5, 1e-4])
    low, high = 0.0, 10.0
    for _ in range(200):
        level = (low + high) / 2
        error = sum(min(level, variance) for variance in variances) / 5
        low, high = (level, high) if error < distortion else (low, level)
    expected = sum(max(0.0, 0.5 * math.log2(variance / level)) for variance in variances) / 5
    found = gaussian_rate_bits(variances, distortion)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_no_error_takes_bits_without_end_and_all_of_the_variance_none():
    assert gaussian_rate_bits(np.ones(3), 0.0) == math.inf
    assert gaussian_rate_bits(np.ones(3), 1.5) == 0.0
    assert gaussian_rate_bits(np.full(7, 4.0), 1.0) == pytest.approx(1.0)
