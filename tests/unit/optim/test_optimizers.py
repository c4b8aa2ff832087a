import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from models import build_model, model_config, tokens
from nutshell.nn.params import ParamRow, ParamTable, parameter
from nutshell.optim.config import OptimConfig
from nutshell.optim.curves import ramp, warmdown
from nutshell.optim.muon import NEWTON_SCHULZ, Muon, orthogonalise
from nutshell.optim.roles import Optimizers


def rows(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        ParamRow(f"w{i}", "matrix", parameter(torch.randn(shape, generator=generator), "matrix"))
        for i, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    updates = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    singular = torch.linalg.svdvals(orthogonalise(updates, steps=5, dtype=torch.float32))
    assert singular.min() > 0.6
    assert singular.max() < 1.3


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_orthogonalise_is_the_odd_polynomial_of_the_singular_values(shape):
    """Newton-Schulz keeps the singular vectors and maps each value by a quintic, five times over."""
    update = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(update, full_matrices=False)
    a, b, c = NEWTON_SCHULZ
    s = s / s.norm()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    result = orthogonalise(update.float()[None], steps=5, dtype=torch.float32)[0]
    torch.testing.assert_close(result, (u * s @ vt).float(), atol=1e-3, rtol=1e-3)


def test_muon_is_its_formula_and_treats_stacked_matrices_apart():
    table = rows([(4, 6), (6, 4), (4, 6)])
    muon = Muon(table, lr=0.1, weight_decay=0.5, steps=5, dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    buffers = [torch.zeros(row.shape) for row in table]
    expected = [row.value.detach().clone() for row in table]
    for _ in range(3):
        for i, row in enumerate(table):
            grad = torch.randn(row.shape, generator=generator)
            row.value.grad = grad.clone()
            buffers[i] = 0.9 * buffers[i] + grad
            direction = orthogonalise((grad + 0.9 * buffers[i])[None], steps=5, dtype=torch.float32)[0]
            scale = max(1.0, row.shape[0] / row.shape[1]) ** 0.5
            expected[i] = expected[i] * (1 - 0.05 * 0.5) - 0.05 * scale * direction
        muon.step(lr_scale=0.5, momentum=0.9)
    for row, value in zip(table, expected, strict=True):
        torch.testing.assert_close(row.value.detach(), value, atol=1e-5, rtol=1e-5)


def test_muon_agrees_with_torchs_on_square_matrices():
    """torch.optim.Muon averages its momentum (a factor 1 - mu that orthogonalisation removes)."""
    (row,) = rows([(8, 8)])
    theirs = nn.Parameter(row.value.detach().clone())
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True, eps=1e-7)
    muon = Muon([row], lr=0.02, weight_decay=0.1, steps=5, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(4)
    start = row.value.detach().clone()
    for _ in range(5):
        grad = torch.randn(8, 8, generator=generator)
        row.value.grad, theirs.grad = grad.clone(), grad.clone()
        muon.step(lr_scale=1.0, momentum=0.9)
        reference.step()
    moved = (theirs.detach() - start).norm()
    assert (row.value.detach() - theirs.detach()).norm() < 0.05 * moved  # bf16 products on both sides


def test_every_parameter_has_one_optimizer_and_moves():
    model, schedule = build_model(model_config(residual={"kind": "sequential", "entry": [{"kind": "x0_mix"}]}))
    optimizers = Optimizers(ParamTable.of(model), OptimConfig(), dtype=torch.float32)
    before = {row.name: row.value.detach().clone() for row in ParamTable.of(model)}
    text = tokens(2, 10)
    F.cross_entropy(model(text[:, :-1], schedule).flatten(0, 1), text[:, 1:].flatten()).backward()
    assert optimizers.step(progress=0.0) == 1.0
    for row in ParamTable.of(model):
        assert not torch.equal(row.value, before[row.name]), row.name
        assert row.value.grad is None


def test_what_a_schedule_does_not_reach_neither_moves_nor_decays():
    config = model_config()
    looped, flat = config.depth.parse(), config.depth.variant("0-3")
    model, _ = build_model(config)
    model = type(model)(config, [looped, flat])
    model.init_weights(0)
    optimizers = Optimizers(ParamTable.of(model), OptimConfig(scalar_weight_decay=0.5), dtype=torch.float32)
    text = tokens(2, 10)
    unused = {skip.key for skip in looped.skips} - {skip.key for skip in flat.skips}
    assert unused
    for _ in range(3):
        F.cross_entropy(model(text[:, :-1], flat).flatten(0, 1), text[:, 1:].flatten()).backward()
        optimizers.step(progress=0.0)
    for key in unused:
        assert model.skips[key].scale.unique().tolist() == [1.0]


def test_muon_leaves_a_matrix_without_a_gradient_alone_and_keeps_its_momentum():
    table = rows([(4, 6), (4, 6)])
    muon = Muon(table, lr=0.1, weight_decay=0.5, steps=5, dtype=torch.float32)
    for row in table:
        row.value.grad = torch.ones(4, 6)
    muon.step(lr_scale=1.0, momentum=0.9)
    (buffer,) = muon.state().values()
    resting, momentum = table[1].value.detach().clone(), buffer[1].clone()
    moving = table[0].value.detach().clone()
    table[1].value.grad = None
    muon.step(lr_scale=1.0, momentum=0.9)
    assert torch.equal(table[1].value, resting)
    assert torch.equal(buffer[1], momentum)
    assert not torch.equal(table[0].value, moving)


def test_state_restores_the_optimizers_exactly():
    text = tokens(2, 10)

    def make():
        model, schedule = build_model(model_config(residual={"kind": "sequential", "entry": [{"kind": "x0_mix"}]}))
        return model, schedule, Optimizers(ParamTable.of(model), OptimConfig(grad_clip=0.3), dtype=torch.float32)

    def step(model, schedule, optimizers, progress):
        F.cross_entropy(model(text[:, :-1], schedule).flatten(0, 1), text[:, 1:].flatten()).backward()
        optimizers.step(progress)

    model, schedule, optimizers = make()
    for progress in (0.0, 0.2):
        step(model, schedule, optimizers, progress)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    state = {name: value.clone() for name, value in optimizers.state().items()}
    step(model, schedule, optimizers, 0.8)

    again, _, restored = make()
    again.load_state_dict(weights)
    restored.load_state(state)
    step(again, schedule, restored, 0.8)
    for name, value in model.named_parameters():
        assert torch.equal(value, dict(again.named_parameters())[name]), name


def test_warmdown_is_flat_then_linear_to_its_floor():
    assert [warmdown(p, frac=0.5, floor=0.1) for p in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([1, 1, 0.55, 0.1])
    assert warmdown(0.3, frac=0.0, floor=0.0) == 1.0
    assert warmdown(1.0, frac=0.0, floor=0.0) == 1.0


def test_ramp_rises_then_stays():
    assert [ramp(p, start=0.8, stop=1.0, frac=0.2) for p in (0, 0.1, 0.2, 1)] == pytest.approx([0.8, 0.9, 1, 1])
    assert ramp(0.0, start=0.8, stop=0.9, frac=0.0) == 0.9
