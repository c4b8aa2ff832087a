import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nutshell.codec.limits import gaussian_code_bits
from nutshell.codec.planes import CodePlanes
from nutshell.config.loader import decode
from nutshell.errors import ArtifactError, RecipeError
from nutshell.quant.config import QuantRule, RtnConfig
from nutshell.quant.grids import AbsmaxGrid, RateGrid, SdClipGrid
from nutshell.quant.levels import largest_code
from nutshell.quant.precision import Precision, step_for_rate
from nutshell.quant.quantizing import dequantize, quantize


def rounded(values, grid, rate_bits=None):
    rule = RtnConfig(roles=("matrix",), grid=grid)
    return quantize(values, rule, precision=None if rate_bits is None else Precision(rate_bits))


def weight(rows=20, cols=64, seed=0):
    scales = torch.logspace(-2, 1, rows)[:, None]
    return scales * torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", range(2, 9))
def test_fixed_codes_are_the_nearest_multiples_of_the_rows_stored_scale(bits):
    planes = rounded(weight(), AbsmaxGrid(bits=bits))
    top = 2 ** (bits - 1) - 1
    for row, codes, scale in zip(weight().tolist(), planes.codes.tolist(), planes.sides["scale"].tolist(), strict=True):
        assert scale == pytest.approx(max(map(abs, row)) / top, rel=1e-3)
        for value, code in zip(row, codes, strict=True):
            assert abs(code) <= top
            best = min(range(-top, top + 1), key=lambda candidate: abs(value - candidate * scale))
            assert abs(value - code * scale) <= abs(value - best * scale) * (1 + 1e-9)


def test_sigmas_put_the_grids_end_at_that_many_deviations():
    planes = rounded(weight(), SdClipGrid(bits=6, sigmas=3.0))
    deviations = weight().double().std(dim=1, unbiased=True)
    np.testing.assert_allclose(planes.sides["scale"], 3.0 * deviations / 31, rtol=1e-3)
    assert np.abs(planes.codes).max() == 31


@pytest.mark.parametrize("rate_bits", [1.5, 3.0, 5.0])
def test_a_rate_is_the_entropy_that_normal_rows_end_up_with(rate_bits):
    planes = rounded(torch.randn(40, 20_000, generator=torch.Generator().manual_seed(1)), RateGrid(), rate_bits)
    _, counts = np.unique(planes.codes, return_counts=True)
    shares = counts / counts.sum()
    entropy = -(shares * np.log2(shares)).sum()
    assert entropy == pytest.approx(gaussian_code_bits(step_for_rate(rate_bits)), abs=0.01)
    if rate_bits == 5.0:  # where the step is fine, the rate is the entropy itself
        assert entropy == pytest.approx(rate_bits, abs=0.005)


def test_an_outlier_coarsens_its_own_row_and_is_not_clipped():
    values = weight(rows=5, cols=4096)
    values[4, 0] = 1000.0
    planes = rounded(values, RateGrid(), 5.0)
    assert 127 / 2**0.25 - 1 < planes.codes[4, 0] <= 127
    restored = dequantize(planes)
    assert restored[4, 0] == pytest.approx(1000.0, rel=0.005)
    plain = rounded(weight(rows=5, cols=4096), RateGrid(), 5.0)
    assert np.array_equal(planes.codes[:4], plain.codes[:4])


def test_codes_do_not_change_with_the_scale_of_a_row():
    values = weight()
    for factor in (0.25, 4.0):
        for given_grid in ((AbsmaxGrid(bits=5),), (RateGrid(), 4.0)):
            assert np.array_equal(rounded(values, *given_grid).codes, rounded(values * factor, *given_grid).codes)


@given(st.integers(1, 6), st.integers(1, 9), st.floats(2.0, 7.0), st.integers(0, 2**31))
def test_any_matrix_comes_back_within_half_a_step(rows, cols, rate_bits, seed):
    values = weight(rows, cols, seed)
    planes = rounded(values, RateGrid(), rate_bits)
    step = torch.from_numpy(planes.sides["scale"]).float()[:, None]
    # Half a step, and what storing the scale in fp16 moved: 2^-11 of up to 127 steps.
    assert ((dequantize(planes) - values).abs() <= step * (0.5 + 127 / 2048)).all()


def test_rows_of_zeros_and_constants_survive():
    values = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    for planes in (rounded(values, AbsmaxGrid(bits=4)), rounded(values, RateGrid(), 4.0)):
        restored = dequantize(planes)
        assert restored[0].tolist() == [0.0, 0.0, 0.0]
        assert restored[1].tolist() == pytest.approx([2.0] * 3, rel=0.1)


def test_planes_that_do_not_match_are_refused():
    good = rounded(weight(), AbsmaxGrid(bits=4))
    with pytest.raises(ArtifactError, match="unknown quantizer 'lattice'"):
        dequantize(CodePlanes(good.codes, good.sides, {"method": "lattice"}))
    for sides in ({}, {"scale": good.sides["scale"][:3]}):
        with pytest.raises(ArtifactError, match="needs one scale, one a row, or some a row"):
            dequantize(CodePlanes(good.codes, sides, good.spec))


def test_grid_ends():
    assert [largest_code(bits) for bits in (2, 3, 6, 8)] == [1, 3, 31, 127]
    assert gaussian_code_bits(0.4145) == pytest.approx(
        3.328, abs=5e-4
    )  # the field's int6, as compression.md measured it
    assert step_for_rate(3.3176) == pytest.approx(0.4145, rel=1e-3)  # the formula at that step, 0.01 bit below
    assert math.log2(step_for_rate(3) / step_for_rate(4)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"kind": "absmax", "bits": 9}, "Expected `int` <= 8"),
        ({"kind": "absmax", "bits": 1}, "Expected `int` >= 2"),
        ({"kind": "absmax"}, "bits"),
        ({"kind": "absmax", "bits": 4, "extra_bits": 1.0}, "extra_bits"),
        ({"kind": "rate", "bits": 4}, "bits"),
        ({"kind": "sd_clip", "bits": 4, "sigmas": -1.0}, "> 0"),
        ({"kind": "absmax", "bits": 4, "floor": 0.0}, "> 0"),
        ({"kind": "absmax", "bits": 4, "per": 0}, ">= 1"),
        ({"kind": "absmax", "bits": 4, "per": "column"}, "per"),
        ({"kind": "lattice"}, "lattice"),
    ],
)
def test_grids_that_mean_nothing_are_refused(grid, message):
    with pytest.raises(RecipeError) as caught:
        decode({"kind": "rtn", "roles": ["matrix"], "grid": grid}, QuantRule, where="x")
    assert message in str(caught.value)
