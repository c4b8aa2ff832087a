import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models import build_model, model_config, tokens
from nutshell.errors import RecipeError, RunError
from nutshell.nn.params import ROLES, ParamTable
from nutshell.optim import roles as roles_module
from nutshell.optim.config import MuonConfig, OptimConfig
from nutshell.optim.roles import Optimizers
from optim_matrices import give_gradients, rows

ENTRY = {"kind": "sequential", "entry": [{"kind": "x0_mix"}]}
TABLES = {"inputs": [{"kind": "bigram_hash", "buckets": 16, "dim": 4}], "residual": ENTRY}


def optimizers_of(table, **config):
    return Optimizers(table, OptimConfig(**config), dtype=torch.float32)


def backward(model, schedule):
    text = tokens(2, 10)
    F.cross_entropy(model(text[:, :-1], schedule).flatten(0, 1), text[:, 1:].flatten()).backward()


def test_every_parameter_has_one_optimizer_and_moves():
    model, schedule = build_model(model_config(**TABLES))
    table = ParamTable.of(model)
    optimizers = optimizers_of(table, momentum=0.5)
    before = {row.name: row.value.detach().clone() for row in table}
    norms = []
    for _ in range(2):  # the bigram's projection has a gradient once its table has left zero
        backward(model, schedule)
        norms.append(torch.stack([row.value.grad.norm() for row in table]).norm().item())
        facts = optimizers.step(progress=0.0)
        assert facts == {"lr": 1.0, "momentum": 0.5, "grad_norm": pytest.approx(norms[-1])}
    for row in table:
        assert not torch.equal(row.value, before[row.name]), row.name
        assert row.value.grad is None


def test_every_role_is_claimed_once():
    claimed = [
        role
        for group in ("MATRIX_ROLES", "PROJECTION_ROLES", "EMBED_ROLES", "SCALAR_ROLES")
        for role in getattr(roles_module, group)
    ]
    assert sorted(claimed) == sorted(ROLES)


def test_a_parameter_that_nobody_claims_is_a_bug(monkeypatch):
    monkeypatch.setattr(roles_module, "SCALAR_ROLES", ("gate", "gain"))
    with pytest.raises(AssertionError, match="a parameter has no optimizer"):
        optimizers_of(ParamTable(tuple(rows([(3,)], role="scale"))))
    monkeypatch.setattr(roles_module, "SCALAR_ROLES", ("gate", "gain", "scale", "matrix"))
    with pytest.raises(AssertionError, match="a parameter has two optimizers"):
        optimizers_of(ParamTable(tuple(rows([(3, 4)]))))


def test_projections_go_to_the_optimizer_that_is_asked_for():
    model, _ = build_model(model_config(**TABLES))
    table = ParamTable.of(model)
    (projection,) = table.with_role("projection")
    for chosen, states in (("muon", 0), ("adamw", 1)):
        optimizers = optimizers_of(table, projections=chosen)
        give_gradients(table, seed=1)
        optimizers.step(0.0)
        named = [name for name in optimizers.state() if name == f"adamw.{projection.name}.exp_avg"]
        assert len(named) == states
    plain, _ = build_model(model_config())
    with pytest.raises(RecipeError, match=r"optim.projections = 'adamw' has no effect"):
        optimizers_of(ParamTable.of(plain), projections="adamw")


def test_what_a_schedule_does_not_reach_neither_moves_nor_decays():
    config = model_config()
    looped, flat = config.depth.parse(), config.depth.variant("0-3")
    model, _ = build_model(config)
    model = type(model)(config, [looped, flat])
    model.init_weights(0)
    optimizers = optimizers_of(ParamTable.of(model), scalar_weight_decay=0.5)
    unused = {skip.key for skip in looped.skips} - {skip.key for skip in flat.skips}
    assert unused
    for _ in range(3):
        backward(model, flat)
        optimizers.step(progress=0.0)
    for key in unused:
        assert model.skips[key].scale.unique().tolist() == [1.0]


def test_a_long_gradient_is_clipped_as_torch_does_it_and_a_short_one_is_not():
    shapes = [(4, 6), (4, 6), (6, 6)]
    table = ParamTable((*rows(shapes), *rows([(7,)], role="gain")))
    clipped = ParamTable((*rows(shapes), *rows([(7,)], role="gain")))
    for number, row in enumerate(table):  # one name each
        object.__setattr__(row, "name", f"p{number}")
        object.__setattr__(clipped.rows[number], "name", f"p{number}")
    ours, plain = optimizers_of(table, grad_clip=1.5), optimizers_of(clipped)
    for seed, factor in ((1, 1.0), (2, 0.01)):
        give_gradients(table, seed)
        for row, other in zip(table, clipped, strict=True):
            row.value.grad.mul_(factor)
            other.value.grad = row.value.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_([row.value for row in clipped], 1.5)
        assert (norm > 1.5) == (seed == 1)
        assert ours.step(0.5)["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
        plain.step(0.5)
    for name, tensor in plain.state().items():
        torch.testing.assert_close(ours.state()[name], tensor, msg=name)


def test_rates_and_decays_follow_their_curves():
    """A weight whose gradient is zero throughout only decays: by the scheduled rate times the decay of the moment."""
    table = ParamTable(tuple(rows([(2, 2)])))
    optimizers = optimizers_of(
        table,
        matrix_lr=0.1,
        lr_curve=((0.5, 1.0), (1.0, 0.2)),
        matrix_weight_decay=((0.7, 0.4), (1.0, 0.2)),
        momentum=((0.0, 0.5), (0.4, 0.9)),
    )
    expected = table.rows[0].value.detach().clone()
    for progress, lr, decay, momentum in ((0.0, 1.0, 0.4, 0.5), (0.3, 1.0, 0.4, 0.8), (0.85, 0.44, 0.3, 0.9)):
        table.rows[0].value.grad = torch.zeros(2, 2)
        facts = optimizers.step(progress)
        assert (facts["lr"], facts["momentum"], facts["grad_norm"]) == (
            pytest.approx(lr),
            pytest.approx(momentum),
            0.0,
        )
        expected *= 1 - 0.1 * lr * decay
    torch.testing.assert_close(table.rows[0].value.detach(), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("role", ["matrix", "embedding"])
def test_a_gradient_that_is_not_finite_stops_before_any_weight_changes(value, role):
    table = ParamTable(
        (*rows([(4, 6)]), *[row for row in rows([(5, 5), (3, 3)], role="embedding") if row.name == "w1"])
    )
    optimizers = optimizers_of(table)
    give_gradients(table, seed=0)
    broken = next(row for row in table if row.role == role)
    broken.value.grad[1, 2] = value
    before = [row.value.detach().clone() for row in table]
    with pytest.raises(RunError, match=f"the gradient of {broken.name} is not finite"):
        optimizers.step(0.0)
    assert all(torch.equal(row.value, kept) for row, kept in zip(table, before, strict=True))


def test_a_gradient_too_large_to_measure_stops_too():
    table = ParamTable(tuple(rows([(4, 6)])))
    table.rows[0].value.grad = torch.full((4, 6), 3e38)
    with pytest.raises(RunError, match="the gradient overflows"):
        optimizers_of(table).step(0.0)


@pytest.mark.parametrize("muon", [{}, {"coefficients": "polar_express", "row_norm": True}])
def test_state_restores_the_optimizers_exactly(muon):
    def make():
        model, schedule = build_model(model_config(residual=ENTRY))
        return model, schedule, optimizers_of(ParamTable.of(model), grad_clip=0.3, muon=MuonConfig(**muon))

    model, schedule, optimizers = make()
    for progress in (0.0, 0.2):
        backward(model, schedule)
        optimizers.step(progress)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    state = {name: value.clone() for name, value in optimizers.state().items()}
    backward(model, schedule)
    optimizers.step(0.8)

    again, _, restored = make()
    again.load_state_dict(weights)
    restored.load_state(state)
    backward(again, schedule)
    restored.step(0.8)
    for name, value in model.named_parameters():
        assert torch.equal(value, dict(again.named_parameters())[name]), name


@pytest.mark.parametrize(
    ("role", "rate", "decay"),
    [("embedding", 0.25, 0.5), ("head", 0.25, 0.5), ("gain", 0.125, 1.0), ("gate", 0.125, 1.0)],
)
def test_roles_have_the_rates_and_decays_of_their_own(role, rate, decay):
    """The first step of AdamW moves every value by its rate, after a decay by rate times decay."""
    table = ParamTable(tuple(rows([(3, 4)], role=role)))
    (row,) = table
    with torch.no_grad():
        row.value.fill_(1.0)
    row.value.grad = torch.full((3, 4), 2.0)
    rates = {"embed_lr": 0.25, "scalar_lr": 0.125, "embed_weight_decay": 0.5, "scalar_weight_decay": 1.0}
    optimizers_of(table, **rates).step(progress=0.0)
    torch.testing.assert_close(row.value.detach(), torch.full((3, 4), (1 - rate * decay) - rate))
