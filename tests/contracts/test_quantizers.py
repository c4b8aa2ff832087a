"""What every method of quantization owes on every grid: planes that give back what was chosen, whatever the matrix."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nutshell.quant.config import GptqConfig, QuantRule, RtnConfig, TrellisConfig
from nutshell.quant.grids import (
    AbsmaxGrid,
    BinaryGrid,
    Grid,
    HessianSdClipGrid,
    MixedGrid,
    MixedRateGrid,
    OpenGrid,
    PercentileGrid,
    PercentileSearchGrid,
    RateGrid,
    SdClipGrid,
    SlopeGrid,
    TernaryGrid,
)
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import METHODS, dequantize, quantize
from nutshell.quant.statistics import Statistics

GRIDS = {
    "rate": RateGrid(),
    "slope": SlopeGrid(),
    "mixed_rate": MixedRateGrid(),
    **{f"absmax int{bits}": AbsmaxGrid(bits=bits) for bits in range(2, 9)},
    "absmax of the tensor": AbsmaxGrid(bits=6, per="tensor"),
    "absmax of groups": AbsmaxGrid(bits=4, per=3),
    "absmax with a floor": AbsmaxGrid(bits=6, floor=1.0),
    "percentile": PercentileGrid(bits=5, quantile=0.95),
    "percentile_search": PercentileSearchGrid(bits=5, quantiles=(0.9, 0.97, 1.0)),
    "percentile_search by row": PercentileSearchGrid(bits=5, quantiles=(0.9, 0.97, 1.0), by="row"),
    "sd_clip": SdClipGrid(bits=6, sigmas=12.85),
    "sd_clip of groups": SdClipGrid(bits=6, sigmas=12.85, per=3),
    "hessian_sd_clip": HessianSdClipGrid(bits=6, sigmas=12.85),
    "mixed": MixedGrid(),
    "ternary": TernaryGrid(),
    "ternary of the tensor": TernaryGrid(per="tensor"),
    "binary": BinaryGrid(),
    "binary of groups": BinaryGrid(per=3),
}
# Steps that do not go with the weights: an absolute one, and the published floor.
ABSOLUTE = {"slope", "absmax with a floor"}
RULES: dict[str, QuantRule] = {
    f"{method.__struct_config__.tag} {name}": method(roles=("matrix",), grid=grid)
    for method, (name, grid) in itertools.product(METHODS, GRIDS.items())
    if method is not TrellisConfig or isinstance(grid, OpenGrid)
}
every_rule = pytest.mark.parametrize("case", RULES)
PRECISION = Precision(3.3, unit=0.8)


def test_every_method_and_grid_is_under_this_contract():
    assert {type(grid) for grid in GRIDS.values()} == set(Grid.__args__)
    assert {type(rule) for rule in RULES.values()} == set(QuantRule.__args__) == set(METHODS)


def draw(rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    widths = torch.exp(0.5 * torch.randn(rows, 1, generator=generator))
    return widths * torch.randn(rows, cols, generator=generator)


def statistics_of(rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2 * cols + 8, cols, generator=generator, dtype=torch.float64)
    row_weights = torch.exp(torch.randn(rows, generator=generator, dtype=torch.float64))
    return Statistics(inputs.T @ inputs / len(inputs), row_weights)


def planes_of(case, weight):
    rule = RULES[case]
    precision = PRECISION if rule.grid.is_open else None
    return quantize(weight, rule, statistics=statistics_of(*weight.shape), precision=precision)


def steps_by_hand(planes):
    """Each weight's step from what is stored, one at a time."""
    rows, cols = planes.codes.shape
    scale, columns = planes.sides["scale"].astype(float), planes.sides.get("columns", np.zeros(cols))
    steps = np.empty((rows, cols))
    for row in range(rows):
        for col in range(cols):
            if scale.ndim == 2:
                mine = scale[row, col * scale.shape[1] // cols]
            else:
                mine = scale[row] if len(scale) == rows else scale[0]
            steps[row, col] = mine * 2.0 ** (float(columns[col]) / 4)
    return steps


@every_rule
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (13, 10)])
def test_planes_give_back_the_weights_that_were_chosen(case, shape):
    planes = planes_of(case, draw(*shape))
    assert planes.codes.shape == shape
    assert set(planes.sides) <= {"scale", "columns"}
    json.dumps(planes.spec)
    restored = dequantize(planes)
    assert restored.dtype == torch.float32
    codes = planes.codes
    if planes.spec["method"] == "trellis":  # whose rows lie by rising scale
        scale = planes.sides["scale"].tolist()
        places = sorted(range(len(scale)), key=lambda row: (scale[row], row))
        codes = np.stack([codes[places.index(row)] for row in range(len(codes))])
    np.testing.assert_allclose(restored.numpy(), codes * steps_by_hand(planes), rtol=3e-7)


@every_rule
@given(rows=st.integers(1, 6), cols=st.integers(1, 9), seed=st.integers(0, 2**31), power=st.integers(-4, 12))
@settings(max_examples=8)
def test_codes_are_as_wide_as_the_grid_says_and_errors_as_small_as_its_steps(case, rows, cols, seed, power):
    rule, weight = RULES[case], draw(rows, cols, seed) * 2.0**power
    planes = planes_of(case, weight)
    if not isinstance(rule, TrellisConfig):
        assert np.abs(planes.codes).max() <= rule.grid.largest
        assert not rule.grid.signs or np.abs(planes.codes).min() == 1
    if isinstance(rule, RtnConfig) and not rule.grid.signs:
        steps = steps_by_hand(planes)
        widest = rule.grid.largest
        if isinstance(rule.grid, MixedGrid):
            widest = np.abs(planes.codes).max(axis=1, keepdims=True)
        error = np.abs(weight.double().numpy() - planes.codes * steps)
        # Half a step within the grid; beyond its end, the end is nearest.
        beyond = np.abs(weight.double().numpy()) > (widest + 0.5) * steps
        assert (error[~beyond] <= 0.5 * np.broadcast_to(steps, error.shape)[~beyond] * (1 + 1e-9)).all()
        assert (np.abs(planes.codes)[beyond] == np.broadcast_to(widest, error.shape)[beyond]).all()


@every_rule
def test_the_same_matrix_has_the_same_planes_whatever_the_threads(case):
    threads, outcomes = torch.get_num_threads(), []
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            planes = planes_of(case, draw(30, 40))
            outcomes.append((planes.codes.tobytes(), *(planes.sides[name].tobytes() for name in sorted(planes.sides))))
    finally:
        torch.set_num_threads(threads)
    assert len(set(outcomes)) == 1


@pytest.mark.parametrize("case", [case for case in RULES if not any(case.endswith(grid) for grid in ABSOLUTE)])
@given(rows=st.integers(1, 6), cols=st.integers(2, 9), seed=st.integers(0, 2**31), power=st.integers(-3, 8))
@settings(max_examples=8, deadline=None)
@example(rows=3, cols=5, seed=0, power=-3)
def test_codes_do_not_change_with_the_scale_of_a_matrix(case, rows, cols, seed, power):
    weight = draw(rows, cols, seed)
    planes, scaled = planes_of(case, weight), planes_of(case, weight * 2.0**power)
    assert np.array_equal(planes.codes, scaled.codes)
    assert np.array_equal(planes.sides["scale"] * np.float16(2.0**power), scaled.sides["scale"])


@pytest.mark.parametrize("case", [case for case in RULES if any(case.endswith(grid) for grid in ABSOLUTE)])
def test_smaller_weights_cost_fewer_levels_where_steps_are_absolute(case):
    weight = 0.5 * draw(20, 30)
    planes, scaled = planes_of(case, weight), planes_of(case, weight / 4)
    assert np.abs(scaled.codes).sum() < 0.5 * np.abs(planes.codes).sum()


@every_rule
def test_rows_of_zeros_and_constants_survive(case):
    weight = draw(12, 10)
    weight[2], weight[5] = 0.0, 0.75
    restored = dequantize(planes_of(case, weight))
    assert restored.isfinite().all()
    # Feedback may ask something of a row of nothing, but there is nothing to ask; two levels have no zero.
    assert restored[2].abs().max() <= (2e-7 if RULES[case].grid.signs else 0.0)
    if not isinstance(RULES[case].grid, TernaryGrid | BinaryGrid) and isinstance(RULES[case], RtnConfig):
        assert restored[5].tolist() == pytest.approx([0.75] * 10, rel=0.5)
    nothing = dequantize(planes_of(case, torch.zeros(3, 4)))
    assert nothing.abs().max() <= 2e-7


@every_rule
def test_what_a_rule_cannot_do_without_is_asked_for(case):
    rule, weight = RULES[case], draw(5, 6)
    precision = PRECISION if rule.grid.is_open else None
    if rule.needs_statistics:
        with pytest.raises(AssertionError, match="needs statistics"):
            quantize(weight, rule, precision=precision)
    else:
        quantize(weight, rule, precision=precision)
    if rule.grid.is_open:
        with pytest.raises(AssertionError, match="needs a precision"):
            quantize(weight, rule, statistics=statistics_of(5, 6))


@pytest.mark.parametrize("case", [case for case in RULES if RULES[case].grid.holds_still and "rtn" in case])
def test_weights_on_a_grid_that_holds_still_stay_where_they_are(case):
    once = dequantize(planes_of(case, draw(20, 30)))
    assert torch.equal(dequantize(planes_of(case, once)), once)


@pytest.mark.parametrize("method", [method for method in METHODS if method is not RtnConfig])
def test_a_method_with_feedback_costs_less_than_rounding_on_the_same_grid(method):
    weight, statistics = draw(24, 32), statistics_of(24, 32)
    settings_of = {GptqConfig: {}, TrellisConfig: {"feedback": True}}[method]
    rules = RtnConfig(roles=("matrix",)), method(roles=("matrix",), **settings_of)
    costs = [
        statistics.cost(dequantize(quantize(weight, rule, statistics=statistics, precision=PRECISION)) - weight)
        for rule in rules
    ]
    assert costs[1] < costs[0]
