import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from nutshell.codec.limits import gaussian_code_bits
from nutshell.codec.trellis_code import POLYNOMIALS, path_bits, subsets
from nutshell.errors import ArtifactError
from nutshell.quant.config import GptqConfig, RtnConfig, TrellisConfig
from nutshell.quant.grids import RateGrid, SlopeGrid
from nutshell.quant.precision import Precision, step_for_rate
from nutshell.quant.quantizing import dequantize, quantize
from nutshell.quant.statistics import Statistics
from nutshell.quant.trellis import square_prices


def normal(rows, cols, seed=0):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def statistics_of(cols, seed=0):
    inputs = (normal(4 * cols, cols, seed) @ normal(cols, cols, seed + 1) * normal(1, cols, seed + 2).exp()).double()
    return Statistics(inputs.T @ inputs / len(inputs), torch.ones(1, dtype=torch.float64))


def trellis(weight, *, rate_bits=3.0, statistics=None, grid=None, **options):
    rule = TrellisConfig(roles=(), grid=grid or RateGrid(), **options)
    if statistics is not None:
        statistics = Statistics(statistics.hessian, torch.ones(len(weight), dtype=torch.float64))
    return quantize(weight, rule, statistics=statistics, precision=Precision(rate_bits))


def conditional_entropy(levels):
    """Bits a level, by its frequency among those of its parity, which the path so far decides."""
    bits = 0.0
    for parity in (0, 1):
        _, counts = np.unique(levels[levels & 1 == parity], return_counts=True)
        bits += float(counts @ np.log2(counts.sum() / counts))
    return bits / levels.size


@pytest.mark.parametrize(("states", "most"), [(4, 0.092), (8, 0.078), (256, 0.038)])
@pytest.mark.parametrize("rate_bits", [2.0, 3.0, 4.5])
def test_gap_to_the_bound_on_normal_weights(states, most, rate_bits):
    weight = normal(1000, 150)
    planes = trellis(weight, rate_bits=rate_bits, states=states, grid=SlopeGrid())  # one step: pooled levels are alike
    error = (weight - dequantize(planes)).double().square().sum() / weight.double().square().sum()
    entropy = conditional_entropy(planes.codes.astype(int))
    assert entropy + 0.5 * math.log2(float(error)) < most
    assert entropy == pytest.approx(gaussian_code_bits(step_for_rate(rate_bits)), abs=0.15)


@pytest.mark.parametrize("states", POLYNOMIALS)
def test_codes_follow_the_code_down_every_column(states):
    for planes in (
        trellis(normal(60, 7), states=states),
        trellis(normal(60, 7), states=states, feedback=True, statistics=statistics_of(7)),
    ):
        assert planes.spec == {"method": "trellis", "states": states}
        assert np.array_equal(subsets(path_bits(planes.codes, states), states), planes.codes & 3)


def test_steps_are_half_of_a_roundings():
    weight = normal(30, 20) * torch.logspace(-2, 1, 30)[:, None]
    rounded = quantize(weight, RtnConfig(roles=(), grid=RateGrid()), precision=Precision(3.0))
    np.testing.assert_allclose(trellis(weight).sides["scale"], rounded.sides["scale"] / 2, rtol=1e-3)


def test_codes_do_not_change_with_the_unit_of_the_weights():
    weight = normal(30, 20)
    for options in ({}, {"feedback": True, "statistics": statistics_of(20)}):
        plain = trellis(weight, **options)
        assert np.array_equal(trellis(weight * 4.0, **options).codes, plain.codes)


@pytest.mark.parametrize("states", [8, 64])
def test_feedback_wins_what_it_wins_for_gptq_and_the_trellis_its_own(states):
    weight, statistics = normal(200, 80), statistics_of(80)
    every = Statistics(statistics.hessian, torch.ones(200, dtype=torch.float64))

    def distance(planes, bits):
        error = (weight - dequantize(planes)).double()
        return bits + 0.5 * math.log2(float(((error @ statistics.hessian) * error).mean()))

    def entropy(codes):
        _, counts = np.unique(codes, return_counts=True)
        return float(counts @ np.log2(codes.size / counts)) / codes.size

    gptq = quantize(weight, GptqConfig(roles=(), grid=RateGrid()), statistics=every, precision=Precision(3.0))
    with_feedback = trellis(weight, states=states, feedback=True, statistics=statistics)
    without = trellis(weight, states=states)
    of_gptq = distance(gptq, entropy(gptq.codes))
    of_trellis = distance(with_feedback, conditional_entropy(with_feedback.codes.astype(int)))
    assert of_gptq - 0.30 < of_trellis < of_gptq - 0.15
    assert of_trellis < distance(without, conditional_entropy(without.codes.astype(int))) - 0.4


def test_slope_has_one_step_for_narrow_and_wide_rows():
    weight = normal(40, 400) * torch.tensor([[0.25], [1.0]]).repeat(20, 1)
    planes = trellis(weight, grid=SlopeGrid(), rate_bits=4.0)
    assert len(np.unique(planes.sides["scale"])) == 1
    errors = (weight - dequantize(planes)).square().mean(dim=1).view(20, 2).mean(dim=0)
    # The code's 1.1 dB under the 4/12 of a step of two levels, and what the rate term gives up.
    expected = float(planes.sides["scale"][0]) ** 2 * 0.26
    assert errors.tolist() == pytest.approx([expected, expected], rel=0.2)


def test_prices_are_those_of_a_normal_level_by_row_and_column():
    widths = torch.tensor([[1.0], [3.0]]).double() * torch.tensor([[1.0, 2.0, 5.0]]).double()
    prices = square_prices(widths, torch.tensor([[1.0], [9.0]]).double(), torch.full((2, 3), 0.5).double())
    for width, price in zip(widths.flatten().tolist(), prices.flatten().tolist(), strict=True):

        def bits(level, width=width / 0.5):
            return -math.log2(math.exp(-(level**2) / (2 * width**2)))

        assert price == pytest.approx((bits(3) - bits(0)) / 9, rel=1e-6)


def test_rows_are_stored_by_rising_scale():
    weight = normal(6, 50) * torch.tensor([3.0, 1.0, 2.0, 0.0, 1.0, 0.5])[:, None]
    planes = trellis(weight)
    scale = planes.sides["scale"]
    order = sorted(range(6), key=lambda row: (scale[row], row))
    assert order[0] == 5  # the narrowest; a row of zeros has the median
    for place, row in enumerate(order):
        near = weight[row] / float(scale[row]) - torch.from_numpy(planes.codes[place].astype(np.float32))
        assert near.abs().max() < 4
    assert (dequantize(planes) - weight).abs().max() < 4 * scale.max()


def test_rows_below_their_step_do_not_disturb_the_others():
    """Interleaved with rows of zeros, a code would have to be on the path of zeros at every second row."""
    weight = normal(800, 50)
    weight[1::2] *= 0.001
    rule = TrellisConfig(roles=(), grid=SlopeGrid())
    row_weights = torch.tensor([1.0, 1e-3]).double().repeat(400)
    statistics = Statistics(torch.eye(50).double(), row_weights)
    planes = quantize(weight, rule, statistics=statistics, precision=Precision(4.0))
    error = (dequantize(planes) - weight)[::2].square().mean()
    alone = dequantize(trellis(weight[::2].contiguous(), rate_bits=4.0, grid=SlopeGrid()))
    assert float(error) == pytest.approx(float((alone - weight[::2]).square().mean()), rel=0.03)


def test_codes_without_one_scale_a_row_are_refused():
    good = trellis(normal(6, 5))
    for sides in ({}, {"scale": good.sides["scale"][:1]}):
        with pytest.raises(ArtifactError, match="a trellis needs one scale a row"):
            dequantize(replace(good, sides=sides))


def test_rows_and_columns_of_zeros():
    weight = normal(20, 6)
    weight[3], weight[:, 2] = 0, 0
    planes = trellis(weight)
    assert not planes.codes[:, 2].any()
    assert not dequantize(planes)[3].abs().max() > 1e-6
    assert not trellis(torch.zeros(5, 4)).codes.any()


def test_a_rate_weight_trades_error_for_bits():
    weight = normal(300, 50)
    planes = [trellis(weight, rate_weight=rate_weight) for rate_weight in (0.0, 0.4, 1.0)]
    errors = [float((weight - dequantize(some)).square().mean()) for some in planes]
    bits = [conditional_entropy(some.codes.astype(int)) for some in planes]
    assert errors == sorted(errors)
    assert bits == sorted(bits, reverse=True)


def test_the_same_codes_from_many_threads():
    weights, statistics = [normal(50, 30, seed) for seed in range(6)], statistics_of(30)
    alone = [trellis(weight, feedback=True, statistics=statistics).codes for weight in weights]
    with ThreadPoolExecutor(3) as pool:
        together = pool.map(lambda weight: trellis(weight, feedback=True, statistics=statistics).codes, weights)
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_wide_codes_are_int16_and_others_int8():
    assert trellis(normal(20, 20)).codes.dtype == np.int8
    assert trellis(normal(20, 20), rate_bits=9.0, grid=SlopeGrid()).codes.dtype == np.int16


@pytest.mark.parametrize("far", [1e3, 1e5, -1e6])
@pytest.mark.parametrize("feedback", [False, True])
def test_a_weight_far_out_widens_its_row_and_is_not_cut(far, feedback):
    weight = normal(24, 32)
    weight[3, 5] = far
    statistics = Statistics(torch.eye(32, dtype=torch.float64), torch.ones(24, dtype=torch.float64))
    decoded = dequantize(trellis(weight, grid=SlopeGrid(), statistics=statistics, feedback=feedback, rate_weight=0.0))
    assert decoded[3, 5].item() == pytest.approx(far, rel=1e-3)
    others = torch.arange(24) != 3
    assert (decoded - weight)[others].abs().max() < 1.0
