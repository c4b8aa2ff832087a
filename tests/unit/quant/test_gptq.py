import numpy as np
import pytest
import torch

from nutshell.errors import NutshellError
from nutshell.quant.config import GptqConfig, RtnConfig
from nutshell.quant.grids import AbsmaxGrid, BinaryGrid, RateGrid, SdClipGrid, SlopeGrid, TernaryGrid
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import dequantize, quantize
from nutshell.quant.statistics import Statistics

PRECISION = Precision(rate_bits=3.0, unit=1.0)
GRIDS = [
    AbsmaxGrid(bits=4),
    AbsmaxGrid(bits=4, per="tensor"),
    AbsmaxGrid(bits=4, per=16),
    SdClipGrid(bits=5, sigmas=4.0),
    TernaryGrid(),
    BinaryGrid(),
    RateGrid(),
    SlopeGrid(),
]


def calibrated(rows=24, cols=40, seed=0):
    """A weight, and statistics of correlated inputs of uneven energy."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(4 * cols, cols)) @ random.normal(size=(cols, cols)) * np.exp(random.normal(size=cols))
    hessian = torch.from_numpy(inputs.T @ inputs / len(inputs))
    weight = torch.from_numpy(random.normal(size=(rows, cols))).float()
    return weight, Statistics(hessian, torch.from_numpy(np.exp(random.normal(size=rows))))


def loss(weight, planes, statistics):
    error = (weight - dequantize(planes)).double()
    return float(torch.einsum("r,rc,cd,rd->", statistics.row_weights, error, statistics.hessian, error))


def gptq(weight, statistics, grid, **options):
    return quantize(weight, GptqConfig(roles=(), grid=grid, **options), statistics=statistics, precision=PRECISION)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{type(grid).__name__}-{getattr(grid, 'per', 'row')}")
def test_on_every_grid_it_loses_less_than_rounding_with_the_same_steps(grid):
    weight, statistics = calibrated()
    rounded = quantize(weight, RtnConfig(roles=(), grid=grid), statistics=statistics, precision=PRECISION)
    found = gptq(weight, statistics, grid)
    assert found.spec == {"method": "gptq"}
    if not isinstance(grid, SlopeGrid):  # whose steps know of the feedback
        assert np.array_equal(found.sides["scale"], rounded.sides["scale"])
        assert np.abs(found.codes).max() <= grid.largest
    assert loss(weight, found, statistics) < 0.8 * loss(weight, rounded, statistics)


def test_codes_are_chosen_by_the_steps_as_they_are_stored():
    """Plain loop over columns and rows, on a grid of steps by row and column."""
    weight, statistics = calibrated(rows=3, cols=6)
    planes = gptq(weight, statistics, SlopeGrid(), act_order=False, damping=0.05)
    hessian = statistics.hessian.numpy()
    hessian = hessian + 0.05 * hessian.diagonal().mean() * np.eye(6)
    left = weight.double().numpy().copy()
    for column in range(6):
        rest = slice(column + 1, None)
        shift = np.linalg.solve(hessian[rest, rest], hessian[rest, column])
        for row in range(3):
            step = float(planes.sides["scale"][row]) * 2.0 ** (planes.sides["columns"][column] / 4)
            assert planes.codes[row, column] == round(left[row, column] / step)
            left[row, rest] += (left[row, column] - step * planes.codes[row, column]) * shift


def test_slope_makes_every_columns_error_cost_about_the_same():
    weight, statistics = calibrated(rows=400)
    planes = gptq(weight, statistics, SlopeGrid())
    hessian = statistics.hessian.numpy()
    hessian = hessian + 0.01 * hessian.diagonal().mean() * np.eye(40)
    order = np.argsort(-hessian.diagonal())
    costs = np.empty(40)
    for place, column in enumerate(order):
        # The variance of an input given others is one over its entry in the inverse of all their second moments.
        rest = order[place:]
        costs[column] = 1 / np.linalg.inv(hessian[np.ix_(rest, rest)])[0, 0]
    slopes = costs * 4.0 ** (planes.sides["columns"] / 4.0)
    # A factor is at most an eighth of an octave off, and a slope goes by its square.
    assert slopes.max() / slopes.min() < 2 ** (2 * 0.25) * (1 + 1e-6)
    assert np.ptp(np.log2(costs)) > 3


def test_the_same_planes_every_time():
    weight, statistics = calibrated()
    first, second = (gptq(weight, statistics, RateGrid()) for _ in range(2))
    assert np.array_equal(first.codes, second.codes)


def test_a_damping_too_small_for_the_calibration_is_refused():
    weight, statistics = calibrated()
    singular = Statistics(torch.ones_like(statistics.hessian), statistics.row_weights)
    with pytest.raises(NutshellError, match="raise the rule's damping"):
        gptq(weight, singular, RateGrid(), damping=1e-30)


def test_without_a_calibration_it_is_not_defined():
    with pytest.raises(AssertionError, match="needs"):
        gptq(calibrated()[0], None, RateGrid())
