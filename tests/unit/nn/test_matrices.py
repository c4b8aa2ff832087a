"""Matrices made of factors: what they multiply to, what they cost, how they start, and which of them are refused."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from models import ATTENTION, TECHNIQUES, build_model, model_config, tokens
from nutshell.errors import RecipeError
from nutshell.model.lm import LM
from nutshell.nn.init import draw_weights
from nutshell.nn.kronecker import KroneckerConfig
from nutshell.nn.low_rank import LowRankConfig
from nutshell.nn.params import ParamTable
from nutshell.nn.projection import DenseConfig
from nutshell.optim.config import OptimConfig
from nutshell.optim.roles import Optimizers

KINDS = {"dense": DenseConfig(), "low_rank": LowRankConfig(rank=5), "kronecker": KroneckerConfig()}
# (inputs, outputs): square, wider, narrower; with one prime side; factors that are tall and wide.
SHAPES = [(36, 36), (24, 60), (60, 24), (24, 13), (24, 25)]


def built(kind, in_dim, out_dim, *, draw="matrix", matrices="orthogonal", seed=0):
    module = KINDS[kind].build(in_dim, out_dim, draw=draw)
    draw_weights(ParamTable.of(module), matrices, torch.Generator().manual_seed(seed))
    return module


@torch.no_grad()
def written_out(kind, module):
    """The matrix that a module stands for, in float64, by the definition of its kind."""
    if kind == "dense":
        return module.weight.double()
    if kind == "low_rank":
        up, down = module.up.weight.double(), module.down.weight.double()
        product = torch.zeros(up.shape[0], down.shape[1], dtype=torch.float64)
        for channel in range(down.shape[0]):
            product += up[:, channel, None] * down[channel]
        return product
    outer, inner = module.outer.weight.double(), module.inner.weight.double()
    return torch.cat([torch.cat([element * inner for element in row], dim=1) for row in outer], dim=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("in_dim", "out_dim"), SHAPES)
def test_the_product_with_its_matrix(kind, in_dim, out_dim):
    module = built(kind, in_dim, out_dim)
    x = torch.randn(2, 3, in_dim, generator=torch.Generator().manual_seed(1))
    expected = x.double() @ written_out(kind, module).T
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("in_dim", "out_dim"), SHAPES)
def test_flops_and_weights_are_those_of_the_forward(kind, in_dim, out_dim):
    module = built(kind, in_dim, out_dim)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.ones(7, in_dim))
    assert counter.get_total_flops() == 7 * KINDS[kind].flops(in_dim, out_dim)
    assert sum(value.numel() for value in module.parameters()) == KINDS[kind].num_params(in_dim, out_dim)


def test_the_published_kronecker_factors():
    module = built("kronecker", 512, 512)
    assert module.outer.weight.shape == (16, 16)
    assert module.inner.weight.shape == (32, 32)
    assert KroneckerConfig().num_params(512, 512) == 1_280


# The rank is that of the factors: of 24 inputs (4 x 6) and 25 outputs (5 x 5), the inner one passes 5 of 6.
@pytest.mark.parametrize(
    ("in_dim", "out_dim", "rank"), [(36, 36, 36), (24, 60, 24), (60, 24, 24), (24, 13, 6), (24, 25, 20)]
)
def test_orthogonal_kronecker_factors_multiply_to_singular_values_of_one(in_dim, out_dim, rank):
    values = torch.linalg.svdvals(written_out("kronecker", built("kronecker", in_dim, out_dim)))
    torch.testing.assert_close(values[:rank], torch.ones(rank).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(values[rank:], torch.zeros(len(values) - rank).double(), atol=1e-5, rtol=0)


def test_orthogonal_low_rank_factors_multiply_to_rank_singular_values_of_one():
    values = torch.linalg.svdvals(written_out("low_rank", built("low_rank", 24, 60)))
    torch.testing.assert_close(values, torch.tensor([1.0] * 5 + [0.0] * 19).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_uniform_factors_multiply_to_the_variance_of_the_dense_draw(kind):
    made = [built(kind, 64, 144, matrices="uniform", seed=seed) for seed in range(40)]
    variance = torch.stack([written_out(kind, module) for module in made]).square().mean().item()
    assert variance == pytest.approx(1 / (3 * 64), rel=0.05)


@pytest.mark.parametrize("kind", ["low_rank", "kronecker"])
@pytest.mark.parametrize("matrices", ["orthogonal", "uniform"])
def test_a_product_of_zero_has_one_factor_of_zero_and_both_learn(kind, matrices):
    module = built(kind, 24, 60, draw="zero", matrices=matrices)
    assert written_out(kind, module).abs().max() == 0.0
    assert sorted(bool(value.abs().max() == 0.0) for value in module.parameters()) == [False, True]
    before = [value.detach().clone() for value in module.parameters()]
    generator = torch.Generator().manual_seed(3)
    x, wanted = torch.randn(8, 24, generator=generator), torch.randn(8, 60, generator=generator)
    for _ in range(2):  # the first step opens the factor of zero, the second reaches the other through it
        module.zero_grad()
        (module(x) - wanted).square().mean().backward()
        with torch.no_grad():
            for value in module.parameters():
                value.sub_(0.1 * value.grad)
    assert all(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("case", ["low_rank", "kronecker"])
def test_muon_takes_the_factors_and_moves_every_one(case):
    config = model_config(**TECHNIQUES[case])
    model = LM(config, [config.depth.parse()])
    model.init_weights(0)
    table = ParamTable.of(model)
    before = {row.name: row.value.detach().clone() for row in table}
    optimizers = Optimizers(table, OptimConfig(embed_lr=0.1), dtype=torch.float32)
    text = tokens(4, 17)
    for _ in range(4):
        logits = model(text[:, :-1], config.depth.parse())
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).backward()
        optimizers.step(0.0)
    still = [row.name for row in table.with_role("matrix") if torch.equal(before[row.name], row.value)]
    assert still == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": {**ATTENTION, "q": {"kind": "low_rank", "rank": 0}}}, "rank must be at least 1, got 0"),
        (
            {"attention": {**ATTENTION, "q": {"kind": "low_rank", "rank": 14}}},
            "attention.q: 'low_rank' saves nothing from 24 to 32 channels: 784 weights, 'dense' has 768",
        ),
        (
            {"mlp": {"kind": "relu2", "mlp_dim": 40, "down": {"kind": "low_rank", "rank": 15}}},
            "mlp.down: 'low_rank' saves nothing from 40 to 24 channels: 960 weights, 'dense' has 960",
        ),
        (
            {"model_dim": 23, "mlp": {"kind": "relu2", "mlp_dim": 41, "up": {"kind": "kronecker"}}},
            "mlp.up: 'kronecker' saves nothing from 23 to 41 channels: 944 weights, 'dense' has 943",
        ),
    ],
)
def test_factors_that_save_nothing_are_refused_when_the_recipe_is_read(changes, message):
    with pytest.raises(RecipeError) as caught:
        model_config(**changes)
    assert message in str(caught.value)


def test_the_largest_rank_that_saves_is_taken():
    config = model_config(attention={**ATTENTION, "q": {"kind": "low_rank", "rank": 13}})
    assert build_model(config)[0].blocks[0].attentions[0].q.down.weight.shape == (13, 24)


@pytest.mark.parametrize("kind", ["low_rank", "kronecker"])
def test_the_forward_makes_nothing_as_large_as_the_matrix(kind):
    module, sizes = built(kind, 24, 60), []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with torch.no_grad(), Watch():
        module(torch.ones(7, 24))
    assert 7 * 60 in sizes
    assert max(sizes) < 24 * 60
