"""What all matrices share under one slope."""

import math

import numpy as np
import pytest
import torch

from nutshell.artifact.matrices import Matrix, slope_unit
from nutshell.quant.config import GptqConfig, RtnConfig
from nutshell.quant.grids import RateGrid, SlopeGrid
from nutshell.quant.statistics import Statistics


def matrix(name, rows, cols, *, rule, seed):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, cols)) * rng.uniform(0.1, 4, (rows, 1))
    inputs = rng.standard_normal((5 * cols, cols)) @ np.diag(rng.uniform(0.2, 3, cols))
    inputs[:, 1:] += 0.8 * inputs[:, :-1]
    hessian = torch.from_numpy(inputs.T @ inputs / len(inputs))
    statistics = Statistics(hessian, torch.from_numpy(rng.uniform(0.01, 1, rows)))
    return Matrix(name, "matrix", torch.from_numpy(weight).float(), rule, statistics)


def test_the_unit_is_the_geometric_mean_of_deviations_times_roots_of_sensitivities():
    """By a loop over all weights; under feedback an input has what the inputs after it cannot take up."""
    matrices = [
        matrix("a", 5, 7, rule=RtnConfig(roles=("matrix",), grid=SlopeGrid()), seed=0),
        matrix("b", 9, 4, rule=GptqConfig(roles=("matrix",), grid=SlopeGrid(), damping=0.001), seed=1),
        matrix("c", 3, 3, rule=RtnConfig(roles=("matrix",), grid=RateGrid()), seed=2),  # has no say
    ]
    logs = []
    for each in matrices[:2]:
        hessian = each.statistics.hessian.numpy()
        variances = np.diag(hessian)
        if each.name == "b":
            damped = hessian + 0.001 * np.diag(hessian).mean() * np.eye(4)
            tails = [np.linalg.det(damped[j:, j:]) for j in range(4)] + [1.0]
            variances = [tails[j] / tails[j + 1] for j in range(4)]
        for row, importance in zip(each.weight.double().numpy(), each.statistics.row_weights, strict=True):
            deviation = math.sqrt((row**2).mean())
            logs += [math.log(deviation * math.sqrt(float(importance) * variance)) for variance in variances]
    assert slope_unit(matrices) == pytest.approx(math.exp(sum(logs) / len(logs)), rel=1e-6)


def test_without_slopes_the_unit_is_one():
    assert slope_unit([matrix("c", 3, 3, rule=RtnConfig(roles=("matrix",), grid=RateGrid()), seed=2)]) == 1.0
