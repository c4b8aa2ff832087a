import math

import numpy as np
import pytest

from nutshell.codec.limits import gaussian_code_bits


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
