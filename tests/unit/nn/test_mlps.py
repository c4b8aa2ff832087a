"""The MLPs against float64 loops that share no code with them."""

import math

import pytest
import torch

from models import model_config
from nutshell.errors import RecipeError
from nutshell.nn.init import draw_weights
from nutshell.nn.mlp import SquaredLeakyReluConfig, SquaredReluConfig
from nutshell.nn.params import ParamTable
from nutshell.nn.swiglu import SwiGLUConfig

MODEL_DIM, MLP_DIM = 6, 10


def products(matrix, vector):
    return [sum(float(weight) * value for weight, value in zip(row, vector, strict=True)) for row in matrix]


def naive_swiglu(mlp, h):
    gate, up = products(mlp.gate.weight, h), products(mlp.up.weight, h)
    hidden = [u / (1 + math.exp(-u)) * w for u, w in zip(gate, up, strict=True)]
    return products(mlp.down.weight, hidden)


def naive_squared(slope):
    def naive(mlp, h):
        hidden = [(u if u > 0 else slope * u) ** 2 for u in products(mlp.up.weight, h)]
        return products(mlp.down.weight, hidden)

    return naive


MLPS = {
    "relu2": (SquaredReluConfig(mlp_dim=MLP_DIM), naive_squared(0.0)),
    "leaky_relu2": (SquaredLeakyReluConfig(mlp_dim=MLP_DIM, slope=0.25), naive_squared(0.25)),
    "swiglu": (SwiGLUConfig(mlp_dim=MLP_DIM), naive_swiglu),
}


@pytest.mark.parametrize("kind", MLPS)
@torch.no_grad()
def test_an_mlp_is_its_formula(kind):
    config, naive = MLPS[kind]
    mlp = config.build(MODEL_DIM)
    generator = torch.Generator().manual_seed(0)
    for value in mlp.parameters():
        value.copy_(torch.randn(value.shape, generator=generator))
    h = torch.randn(2, 3, MODEL_DIM, generator=generator)
    expected = torch.tensor([[naive(mlp, token.tolist()) for token in row] for row in h])
    torch.testing.assert_close(mlp(h), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", MLPS)
def test_an_mlp_starts_silent_and_opens_by_its_last_matrix(kind):
    mlp = MLPS[kind][0].build(MODEL_DIM)
    draw_weights(ParamTable.of(mlp), "orthogonal", torch.Generator().manual_seed(0))
    y = mlp(torch.randn(4, 5, MODEL_DIM, generator=torch.Generator().manual_seed(1)))
    assert y.abs().max() == 0.0
    y.sum().backward()
    assert mlp.down.weight.grad.abs().max() > 0.0
    assert mlp.up.weight.abs().max() > 0.0


def test_two_thirds_of_the_width_make_a_swiglu_as_large_as_two_matrices():
    assert SwiGLUConfig(mlp_dim=512).num_params(256) == SquaredReluConfig(mlp_dim=768).num_params(256) == 393_216
    assert SwiGLUConfig(mlp_dim=512).flops(256) == SquaredReluConfig(mlp_dim=768).flops(256) == 786_432


def test_a_matrix_of_swiglu_is_checked_by_its_name():
    with pytest.raises(RecipeError, match=r"mlp\.gate: 'low_rank' saves nothing from 24 to 40 channels"):
        model_config(mlp={"kind": "swiglu", "mlp_dim": 40, "gate": {"kind": "low_rank", "rank": 15}})
    with pytest.raises(RecipeError, match="mlp_dim must be at least 1"):
        model_config(mlp={"kind": "swiglu", "mlp_dim": 0})
