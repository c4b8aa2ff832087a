"""Grids: the steps that each kind fits, by plain loops, and the published figures on normal weights."""

import lzma
import math
import statistics as plain_statistics

import numpy as np
import pytest
import torch

from nutshell.codec import chain
from nutshell.codec.limits import gaussian_code_bits
from nutshell.config.loader import decode
from nutshell.errors import RecipeError
from nutshell.quant.config import QuantRule, RtnConfig
from nutshell.quant.grids import (
    AbsmaxGrid,
    BinaryGrid,
    Grid,
    HessianSdClipGrid,
    MixedGrid,
    MixedRateGrid,
    PercentileGrid,
    PercentileSearchGrid,
    RateGrid,
    SdClipGrid,
    SlopeGrid,
    TernaryGrid,
)
from nutshell.quant.precision import Precision, step_for_rate
from nutshell.quant.quantizing import dequantize, quantize
from nutshell.quant.statistics import Statistics


def draw(rows, cols, seed=0, deviation=1.0):
    return deviation * torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def statistics_of(rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(cols, cols, generator=generator, dtype=torch.float64)
    return Statistics(root @ root.T, torch.rand(rows, generator=generator, dtype=torch.float64) + 0.1)


def rounded(weight, grid, *, statistics=None, rate_bits=None, unit=1.0):
    rule = RtnConfig(roles=("matrix",), grid=grid)
    precision = None if rate_bits is None else Precision(rate_bits, unit)
    return quantize(weight, rule, statistics=statistics, precision=precision)


def half(value):
    return float(np.float16(np.float32(value)))


def quantile_by_hand(values, share):
    ordered, place = sorted(values), share * (len(values) - 1)
    low = math.floor(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(values) - 1)] - ordered[low])


def round_by_hand(row, scale, top):
    return [max(-top, min(top, round(value / scale))) for value in row]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_a_percentile_is_where_the_codes_end(share):
    weight = draw(7, 33)
    planes = rounded(weight, PercentileGrid(bits=4, quantile=share))
    for row, scale, codes in zip(weight.double().tolist(), planes.sides["scale"], planes.codes.tolist(), strict=True):
        assert float(scale) == pytest.approx(half(quantile_by_hand([abs(value) for value in row], share) / 7))
        assert codes == round_by_hand(row, float(scale), 7)


@pytest.mark.parametrize("by", ["matrix", "row"])
def test_the_search_takes_the_quantile_of_least_error(by):
    weight = draw(9, 200) * torch.logspace(-1, 0, 9)[:, None]
    weight[3, 0], weight[5, 7] = 40.0, 9.0
    shares = (0.9, 0.99, 1.0)
    planes = rounded(weight, PercentileSearchGrid(bits=4, quantiles=shares, by=by))
    errors, scales = [], []
    for share in shares:
        scales.append(
            [half(quantile_by_hand([abs(value) for value in row], share) / 7) for row in weight.double().tolist()]
        )
        errors.append(
            [
                sum((value - code * scale) ** 2 for value, code in zip(row, round_by_hand(row, scale, 7), strict=True))
                for row, scale in zip(weight.double().tolist(), scales[-1], strict=True)
            ]
        )
    whole = min(range(3), key=lambda place: sum(errors[place]))
    for row, scale in enumerate(planes.sides["scale"].tolist()):
        best = whole if by == "matrix" else min(range(3), key=lambda place: errors[place][row])
        assert scale == pytest.approx(scales[best][row])
    assert len({min(range(3), key=lambda place: errors[place][row]) for row in range(9)}) > 1


def test_deviations_are_unbiased_and_about_the_mean_as_published():
    weight = draw(5, 11) + 0.7
    planes = rounded(weight, SdClipGrid(bits=6, sigmas=12.85))
    for row, scale in zip(weight.double().tolist(), planes.sides["scale"].tolist(), strict=True):
        assert scale == pytest.approx(half(12.85 * plain_statistics.stdev(row) / 31))


def test_hessian_aware_clipping_by_hand():
    weight, statistics = draw(6, 10) * torch.logspace(-1, 0, 6)[:, None], statistics_of(6, 10)
    planes = rounded(weight, HessianSdClipGrid(bits=6, sigmas=12.85, strength=0.175), statistics=statistics)
    inputs = statistics.hessian.diagonal().tolist()
    rows = weight.double().tolist()
    share = [sum(abs(w) * h for w, h in zip(row, inputs, strict=True)) / len(row) for row in rows]
    share = [each / (sum(inputs) / len(inputs)) for each in share]
    ratios = [each / (sum(share) / len(share)) for each in share]
    for row, ratio, scale in zip(rows, ratios, planes.sides["scale"].tolist(), strict=True):
        end = 12.85 * plain_statistics.stdev(row) * (1 + 0.175 * (ratio - 1))
        assert scale == pytest.approx(half(end / 31))


@pytest.mark.parametrize("grid", [TernaryGrid(), BinaryGrid()], ids=["ternary", "binary"])
def test_two_and_three_levels_have_the_best_scale_there_is(grid):
    weight = draw(8, 40)
    restored = dequantize(rounded(weight, grid)).double()
    codes = [-1, 1] if isinstance(grid, BinaryGrid) else [-1, 0, 1]
    for row, found in zip(weight.double().tolist(), restored.tolist(), strict=True):
        tried = []
        for scale in np.linspace(0.0, max(map(abs, row)), 2001):
            tried.append(sum(min((value - code * scale) ** 2 for code in codes) for value in row))
        error = sum((value - other) ** 2 for value, other in zip(row, found, strict=True))
        assert error <= min(tried) * (1 + 1e-5)
    assert set(np.unique(rounded(weight, grid).codes)) == set(codes)


@pytest.mark.parametrize(("per", "shape"), [("tensor", (1,)), ("row", (6,)), (4, (6, 3)), (5, (6, 2)), (64, (6, 1))])
def test_a_scale_is_of_the_tensor_the_row_or_a_group_in_the_row(per, shape):
    weight = draw(6, 10)
    planes = rounded(weight, AbsmaxGrid(bits=5, per=per))
    scale = planes.sides["scale"]
    assert scale.shape == shape
    for row in range(6):
        for col in range(10):
            if per == "tensor":
                cell, found = weight, scale[0]
            elif per == "row":
                cell, found = weight[row], scale[row]
            else:
                groups = shape[1]
                mine = [other for other in range(10) if other * groups // 10 == col * groups // 10]
                assert len(mine) <= per
                cell, found = weight[row, mine], scale[row, col * groups // 10]
            assert float(found) == pytest.approx(half(cell.abs().max().double() / 15))
            assert planes.codes[row, col] == round_by_hand([weight[row, col].item()], float(found), 15)[0]
            assert dequantize(planes)[row, col].item() == pytest.approx(planes.codes[row, col] * float(found))


def test_the_slope_grids_step_goes_by_what_an_error_costs():
    weight, statistics = draw(6, 8), statistics_of(6, 8)
    variances = torch.rand(8, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 0.01
    for given in (None, variances):
        grid = SlopeGrid(extra_bits=0.5)
        levels = grid.fit(weight, statistics=statistics, precision=Precision(3.0, unit=0.7), variances=given)
        steps = levels.steps(6, 8)
        by_column = statistics.hessian.diagonal() if given is None else given
        for row in range(6):
            for col in range(8):
                cost = float(statistics.row_weights[row] * by_column[col])
                exact = math.sqrt(2 * math.pi * math.e) / 2**3.5 * 0.7 / math.sqrt(cost)
                # A quarter of an octave is what rows are rounded to, and columns.
                assert abs(math.log2(steps[row, col].item() / exact)) < 2 / 8 + 1e-3


@pytest.mark.parametrize("rows", [1, 2, 9, 200])
def test_open_grids_have_few_scales_a_quarter_of_an_octave_apart(rows):
    weight = draw(rows, 50) * torch.exp(0.3 * draw(rows, 1, seed=1))
    scale = rounded(weight, RateGrid(), rate_bits=4.0).sides["scale"].astype(float)
    exact = weight.double().square().mean(dim=1).sqrt().numpy() * math.sqrt(2 * math.pi * math.e) / 2**4
    assert np.abs(np.log2(scale / exact)).max() < 1 / 8 + 1e-3
    places = 4 * np.log2(scale / scale.min())
    np.testing.assert_allclose(places, np.rint(places), atol=0.01)
    middle = np.sort(exact)[(rows - 1) // 2]
    assert np.abs(np.log2(scale / middle)).min() < 1e-3  # about the median, wherever that is


def test_a_row_of_zeros_has_a_scale_like_the_others():
    weight = draw(9, 50)
    weight[4] = 0.0
    scale = rounded(weight, RateGrid(), rate_bits=4.0).sides["scale"]
    assert scale[4] == np.sort(scale)[4]


def test_without_statistics_the_slope_grid_is_one_absolute_step():
    weight = draw(5, 9) * torch.logspace(-1, 1, 5)[:, None]
    planes = rounded(weight, SlopeGrid(), rate_bits=4.0, unit=0.3)
    assert set(planes.sides) == {"scale"}
    assert planes.sides["scale"].tolist() == [half(step_for_rate(4.0) * 0.3)] * 5
    smaller = rounded(0.5 * weight, SlopeGrid(), rate_bits=4.0, unit=0.3)
    assert np.abs(smaller.codes).sum() < 0.6 * np.abs(planes.codes).sum()


def test_dead_inputs_and_outputs_have_a_step_with_an_end():
    weight, statistics = draw(6, 8), statistics_of(6, 8)
    hessian = statistics.hessian.clone()
    hessian[2], hessian[:, 2] = 0.0, 0.0
    planes = rounded(weight, SlopeGrid(), statistics=Statistics(hessian, statistics.row_weights), rate_bits=4.0)
    assert planes.codes[:, 2].tolist() == [0] * 6
    assert dequantize(planes).isfinite().all()
    nothing = Statistics(torch.zeros(8, 8, dtype=torch.float64), statistics.row_weights)
    assert dequantize(rounded(weight, SlopeGrid(), statistics=nothing, rate_bits=4.0)).isfinite().all()


def expected_cost(weight, planes, statistics):
    change = (dequantize(planes) - weight).double()
    return sum(
        0.5 * float(statistics.row_weights[row]) * float(change[row] @ statistics.hessian @ change[row])
        for row in range(len(weight))
    )


def entropy(codes):
    _, counts = np.unique(codes, return_counts=True)
    return float(-(counts / counts.sum() * np.log2(counts / counts.sum())).sum())


def lzma_bits(codes):
    return 8 * len(lzma.compress(codes.tobytes(), preset=6)) / codes.size


def row_entropy(codes):
    return sum(len(row) * entropy(row) for row in codes)


def test_equal_slope_costs_less_than_equal_rate_at_the_same_bits():
    rows, cols = 8, 4096
    weight = draw(rows, cols)
    statistics = Statistics(
        torch.eye(cols, dtype=torch.float64), torch.logspace(-3, 3, rows, base=2, dtype=torch.float64)
    )
    unit = math.exp(sum(0.5 * math.log(float(each)) for each in statistics.row_weights) / rows)
    even = rounded(weight, RateGrid(), rate_bits=4.0)
    sloped = rounded(weight, SlopeGrid(), statistics=statistics, rate_bits=4.0, unit=unit)
    assert row_entropy(sloped.codes) / weight.numel() == pytest.approx(
        row_entropy(even.codes) / weight.numel(), abs=0.02
    )
    # The geometric mean of the row weights over their arithmetic mean, by the theory of high rates.
    weights = statistics.row_weights.numpy()
    gain = np.exp(np.log(weights).mean()) / weights.mean()
    ratio = expected_cost(weight, sloped, statistics) / expected_cost(weight, even, statistics)
    assert ratio == pytest.approx(gain, rel=0.05)


def test_mixed_precision_gives_rows_by_their_gradient_their_bits():
    weight = draw(40, 50)
    statistics = statistics_of(40, 50)
    planes = rounded(weight, MixedGrid(), statistics=statistics)
    gradients = statistics.row_weights.tolist()
    ends = quantile_by_hand(gradients, 0.1), quantile_by_hand(gradients, 0.9)
    widths = [7 if each < ends[0] else 127 if each > ends[1] else 31 for each in gradients]
    assert {widths.count(7), widths.count(127)} == {4}
    for row, width in enumerate(widths):
        assert np.abs(planes.codes[row]).max() == width
        scale = float(planes.sides["scale"][row])
        assert scale == pytest.approx(half(weight[row].abs().max().double() / width))
        assert planes.codes[row].tolist() == round_by_hand(weight[row].double().tolist(), scale, width)


def test_mixed_bits_are_really_serialised():
    weight = draw(200, 256)
    statistics = statistics_of(200, 256)
    sizes = {
        bits: len(chain.encode(rounded(weight, MixedGrid(bits=bits), statistics=statistics).codes, ("ans",)))
        for bits in ((4, 6, 8), (4, 6, 7), (5, 6, 8))
    }
    plain = len(chain.encode(rounded(weight, AbsmaxGrid(bits=6)).codes, ("ans",)))
    # A tenth of the rows two bits less and a tenth two more: as many bytes, in other places.
    assert sizes[4, 6, 8] == pytest.approx(plain, rel=0.01)
    a_bit_of_a_tenth = weight.numel() / 10 / 8
    assert sizes[4, 6, 8] - sizes[4, 6, 7] == pytest.approx(a_bit_of_a_tenth, rel=0.1)
    assert sizes[5, 6, 8] - sizes[4, 6, 8] == pytest.approx(a_bit_of_a_tenth, rel=0.15)


def test_mixed_rates_move_with_the_budget_and_by_class():
    weight, statistics = draw(40, 2000), statistics_of(40, 2000)
    for rate in (3.0, 5.0):
        planes = rounded(weight, MixedRateGrid(spread_bits=1.0), statistics=statistics, rate_bits=rate)
        order = np.argsort(statistics.row_weights.numpy())
        for row, expected in ((order[0], rate - 1), (order[20], rate), (order[-1], rate + 1)):
            assert entropy(planes.codes[row]) == pytest.approx(gaussian_code_bits(step_for_rate(expected)), abs=0.06)


# What the specs say of normal weights, at full shapes.


@pytest.mark.parametrize(
    ("shape", "bits", "sigmas", "published", "exact"),
    [((2048, 512), 6, 12.85, 3.318, 3.328), ((8192, 512), 8, 20.0, 4.714, 4.715)],
)
def test_bits_a_weight_of_sd_clip_as_published(shape, bits, sigmas, published, exact):
    # shared/spec/sp8192-loop36.md 1.5: H = 2.047 + log2(Q / k), which neglects that steps are not small.
    top = 2 ** (bits - 1) - 1
    assert 0.5 * math.log2(2 * math.pi * math.e) + math.log2(top / sigmas) == pytest.approx(published, abs=1e-3)
    codes = rounded(draw(*shape), SdClipGrid(bits=bits, sigmas=sigmas)).codes
    assert entropy(codes) == pytest.approx(exact, abs=2e-3)
    assert np.abs(codes).max() < top  # "clipping is essentially never active"


def relative_error(weight, planes):
    change = (dequantize(planes) - weight).double()
    return (change.square().mean().sqrt() / weight.double().square().mean().sqrt()).item()


@pytest.mark.parametrize(
    ("deviation", "floor", "bits", "error", "largest"),
    [
        # shared/spec/layer-sharing-167.md 5.3 and 5.4: bits after zstd, a tenth of which is not entropy.
        (0.12, 1.0, 4.0, 0.078, 18),
        (0.12, None, 5.4, 0.031, 31),
        (0.044, 1.0, 2.6, 0.21, 7),
    ],
)
def test_what_the_published_floor_did(deviation, floor, bits, error, largest):
    weight = draw(1536, 512, deviation=deviation)
    planes = rounded(weight, PercentileGrid(bits=6, quantile=0.9999984, floor=floor))
    assert relative_error(weight, planes) == pytest.approx(error, rel=0.03)
    assert entropy(planes.codes) == pytest.approx(bits, abs=0.15)
    assert abs(int(np.abs(planes.codes).max()) - largest) <= 2
    if floor:
        assert set(planes.sides["scale"].tolist()) == {half(1 / 31)}


def test_what_the_floor_of_four_bits_did():
    # shared/spec/layer-sharing-167.md 5.18, codes from -8 there: at sigma 0.12, 45 % zeros and 34 % error vs 13.5 %.
    weight = draw(1536, 512, deviation=0.12)
    floored = rounded(weight, AbsmaxGrid(bits=4, floor=1.0))
    assert (floored.codes == 0).mean() == pytest.approx(0.45, abs=0.01)
    assert relative_error(weight, floored) == pytest.approx(0.34, abs=0.01)
    assert relative_error(weight, rounded(weight, AbsmaxGrid(bits=4))) == pytest.approx(0.135, abs=0.01)


def test_under_the_floor_the_published_search_searches_nothing():
    # shared/spec/recur45-686.md 4.5: all five candidates tie, and the first wins; about 4.6 bits, and 5.47 without the
    # floor, in the bytes of its LZMA at a deviation of about 0.17.
    weight = draw(1536, 512, deviation=0.17)
    floored = rounded(weight, PercentileSearchGrid(bits=6, floor=1.0))
    first = rounded(weight, PercentileGrid(bits=6, quantile=0.999, floor=1.0))
    assert np.array_equal(floored.codes, first.codes)
    assert lzma_bits(floored.codes) == pytest.approx(4.6, abs=0.02)
    assert lzma_bits(rounded(weight, PercentileSearchGrid(bits=6)).codes) == pytest.approx(5.47, abs=0.01)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"kind": "percentile", "bits": 6}, "quantile"),
        ({"kind": "percentile", "bits": 6, "quantile": 1.5}, "<= 1"),
        ({"kind": "percentile_search", "bits": 6, "quantiles": [0.9]}, "two or more that differ"),
        ({"kind": "percentile_search", "bits": 6, "quantiles": [0.9, 0.9]}, "two or more that differ"),
        ({"kind": "hessian_sd_clip", "bits": 6, "sigmas": 12.85, "strength": 2.0}, "< 1.0"),
        ({"kind": "mixed", "bits": [6, 6, 8]}, "bits must rise, got [6, 6, 8]"),
        ({"kind": "mixed", "low_share": 0.6, "high_share": 0.6}, "low_share and high_share make more than 1"),
        ({"kind": "mixed_rate", "spread_bits": 0.0}, "> 0"),
        ({"kind": "slope", "per": "row"}, "per"),
        ({"kind": "ternary", "bits": 2}, "bits"),
    ],
)
def test_settings_that_mean_nothing_are_refused(grid, message):
    with pytest.raises(RecipeError) as caught:
        decode({"kind": "rtn", "roles": ["matrix"], "grid": grid}, QuantRule, where="x")
    assert message in str(caught.value)


def test_a_trellis_takes_only_open_grids():
    with pytest.raises(RecipeError, match="absmax"):
        decode({"kind": "trellis", "roles": ["matrix"], "grid": {"kind": "absmax", "bits": 4}}, QuantRule, where="x")


def test_every_grid_has_a_test_above():
    tested = {name for name in globals() if name.endswith("Grid")} - {"Grid"}
    assert {kind.__name__ for kind in Grid.__args__} == tested


def test_slope_goes_by_sensitivities_down_to_a_millionth_of_their_mean():
    importance = torch.tensor([1.0, 1e-2, 1e-4, 1e-9, 1e-20], dtype=torch.float64)
    statistics = Statistics(torch.eye(64, dtype=torch.float64), importance)
    levels = SlopeGrid().fit(torch.randn(5, 64), statistics=statistics, precision=Precision(3.0))
    octaves = (levels.scale.double() / levels.scale[0].double()).log2()
    least = 1e-6 * float(importance.mean())
    expected = [0.0, math.log2(10), math.log2(100), *2 * [-0.5 * math.log2(least)]]
    assert octaves.tolist() == pytest.approx(
        expected, abs=0.26
    )  # either end is rounded to a quarter of an octave, and to fp16
