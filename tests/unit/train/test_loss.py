"""The loss of a step: values and gradients against the model's own forward in float64, in pieces and in bf16."""

import shutil
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from models import VOCAB, build_model, model_config, tokens
from nutshell.nn.params import ParamTable
from nutshell.quant.config import RtnConfig
from nutshell.quant.grids import AbsmaxGrid
from nutshell.train import loss as loss_module
from nutshell.train.compute import Compute
from nutshell.train.config import BudgetConfig, TrainConfig
from nutshell.train.loss import TrainingLoss, num_pieces
from nutshell.train.qat.ste import SteConfig
from nutshell.train.qat.twin import quantized_twin

HAS_COMPILER = any(map(shutil.which, ("g++", "clang++")))
COMPILED = [
    pytest.mark.skipif(not HAS_COMPILER, reason="nothing is compiled here"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore::DeprecationWarning"),  # torch's
]
B, T = 6, 8
MODELS = {
    "tied": {"logits": [{"kind": "softcap", "cap": 5.0}]},
    "untied": {"logits": [{"kind": "softcap", "cap": 5.0}], "tied_head": False},
    "no cap": {},
    "narrow": {"embedding_dim": 10},
    "narrow untied": {"embedding_dim": 10, "tied_head": False, "logits": [{"kind": "softcap", "cap": 5.0}]},
}


def settings(**changes):
    return TrainConfig(budget=BudgetConfig(steps=1), batch_size=B, seq_len=T, **changes)


def drawn_model(name):
    """Weights away from their first values, since heads and branches begin at zero."""
    model, schedule = build_model(model_config(**MODELS[name]))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model, schedule


def made(model, schedule, *, dtype=torch.float32, scope=None, scale=1.0, **changes):
    """Objective and nats, and the gradients that training leaves."""
    model.zero_grad()
    compute = Compute(dtype=dtype, attend_kind="products", compiled=bool(scope), scope=scope or "blocks")
    value = TrainingLoss(model, compute, settings(**changes))(tokens(B, T), tokens(B, T, seed=1), schedule)
    (scale * value.objective).backward()
    return value, {row.name: row.value.grad for row in ParamTable.of(model) if row.value.grad is not None}


def expected(name, *, smoothing=0.0, weight=0.0):
    """The same by autograd on torch's own cross-entropy in float64."""
    model, schedule = drawn_model(name)
    model.double()
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):  # norms and logits in float64 too
        logits = model(tokens(B, T), schedule, dtype=torch.float64, attend_kind="products").flatten(0, 1)
    y = tokens(B, T, seed=1).flatten()
    nats = F.cross_entropy(logits, y)
    objective = F.cross_entropy(logits, y, label_smoothing=smoothing) + weight * logits.logsumexp(-1).square().mean()
    objective.backward()
    return objective.item(), nats.item(), {row.name: row.value.grad for row in ParamTable.of(model)}


def assert_near(found, wanted, *, within):
    assert found.keys() == {name for name, value in wanted.items() if value is not None}
    for name, value in found.items():
        distance = (value.double() - wanted[name]).norm()
        assert distance <= within * wanted[name].norm() + 1e-9, name


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        *((name, None) for name in MODELS),
        pytest.param("tied", "blocks", marks=COMPILED),
        pytest.param("untied", "schedules", marks=COMPILED),
        pytest.param("narrow", "blocks", marks=COMPILED),
    ],
)
def test_values_and_gradients_are_those_of_float64(name, scope):
    objective, nats, wanted = expected(name, smoothing=0.2, weight=0.05)
    value, found = made(*drawn_model(name), label_smoothing=0.2, z_loss=0.05, scope=scope)
    assert value.objective.item() == pytest.approx(objective, rel=1e-5)
    assert value.nats.item() == pytest.approx(nats, rel=1e-5)
    assert not value.nats.requires_grad
    assert_near(found, wanted, within=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_is_near_float64(name):
    _, nats, wanted = expected(name)
    value, found = made(*drawn_model(name), dtype=torch.bfloat16)
    assert value.objective.dtype == value.nats.dtype == torch.float32
    assert value.nats.item() == pytest.approx(nats, rel=0.01)
    wanted = {name: gradient for name, gradient in wanted.items() if "embedding" in name or "head" in name}
    assert_near({name: found[name] for name in wanted}, wanted, within=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num", [2, 3, 6])
def test_pieces_add_up_to_the_whole(num, dtype):
    model, schedule = drawn_model("tied")
    whole, wanted = made(model, schedule, dtype=dtype, label_smoothing=0.1, z_loss=1e-2)
    wanted = {name: gradient.clone() for name, gradient in wanted.items()}
    with mock.patch.dict(loss_module.MAX_LOGITS_BYTES, cpu=4 * B * T * VOCAB // num):
        value, found = made(model, schedule, dtype=dtype, label_smoothing=0.1, z_loss=1e-2)
    assert value.objective.item() == pytest.approx(whole.objective.item(), rel=1e-5)
    assert value.nats.item() == pytest.approx(whole.nats.item(), rel=1e-5)
    assert_near(found, wanted, within=1e-5 if dtype == torch.float32 else 0.03)


def test_no_logits_of_more_than_a_piece_ever_exist():
    model, schedule = drawn_model("tied")
    sizes = []
    read_out = model.read_out

    def watched(x, stream, head):
        logits = read_out(x, stream, head)
        sizes.append(tuple(logits.shape))
        return logits

    loss = TrainingLoss(model, Compute(torch.float32, "products", compiled=False), settings())
    with (
        mock.patch.dict(loss_module.MAX_LOGITS_BYTES, cpu=4 * 2 * T * VOCAB),
        mock.patch.object(model, "read_out", watched),
    ):
        loss(tokens(B, T), tokens(B, T, seed=1), schedule).objective.backward()
    assert sizes == [(2, T, VOCAB)] * 3


@pytest.mark.parametrize("name", ["tied", "untied", "narrow", "narrow untied"])
def test_a_model_that_sees_its_weights_quantized_learns_by_what_it_sees(name):
    model, schedule = drawn_model(name)
    rules = (RtnConfig(roles=("embedding", "matrix", "projection"), grid=AbsmaxGrid(bits=3)),)
    twin = quantized_twin(model, (schedule,), SteConfig(), rules)
    logits = twin(tokens(B, T), schedule, attend_kind="products").flatten(0, 1)
    F.cross_entropy(logits, tokens(B, T, seed=1).flatten()).backward()
    wanted = {row.name: row.value.grad.clone() for row in ParamTable.of(model) if row.value.grad is not None}
    model.zero_grad()
    compute = Compute(torch.float32, "products", compiled=False)
    TrainingLoss(twin, compute, settings())(tokens(B, T), tokens(B, T, seed=1), schedule).objective.backward()
    found = {row.name: row.value.grad for row in ParamTable.of(model) if row.value.grad is not None}
    assert_near(found, {key: value.double() for key, value in wanted.items()}, within=1e-4)


def test_a_technique_on_logits_learns():
    class Tilt(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1.0, 1.0, VOCAB))

        def forward(self, z, stream):
            return z + self.weight * (stream.tokens > 3)[..., None]

    model, schedule = drawn_model("tied")
    model.logits.append(tilt := Tilt())
    logits = model(tokens(B, T), schedule, attend_kind="products").flatten(0, 1)
    F.cross_entropy(logits, tokens(B, T, seed=1).flatten()).backward()
    wanted, tilt.weight.grad = tilt.weight.grad, None
    compute = Compute(torch.float32, "products", compiled=False)
    with mock.patch.dict(loss_module.MAX_LOGITS_BYTES, cpu=4 * 2 * T * VOCAB):
        TrainingLoss(model, compute, settings())(tokens(B, T), tokens(B, T, seed=1), schedule).objective.backward()
    torch.testing.assert_close(tilt.weight.grad, wanted, atol=1e-7, rtol=1e-4)


def test_a_weighted_objective_weighs_all_gradients():
    model, schedule = drawn_model("untied")
    _, wanted = made(model, schedule)
    wanted = {name: 0.25 * gradient for name, gradient in wanted.items()}
    assert_near(made(model, schedule, scale=0.25)[1], wanted, within=1e-5)


def test_without_gradients_the_value_is_the_same():
    model, schedule = drawn_model("tied")
    loss = TrainingLoss(model, Compute(torch.float32, "products", compiled=False), settings(label_smoothing=0.1))
    other = loss(tokens(B, T), tokens(B, T, seed=1), schedule)
    with torch.no_grad():
        value = loss(tokens(B, T), tokens(B, T, seed=1), schedule)
    assert value.objective.item() == pytest.approx(other.objective.item(), rel=1e-6)
    assert value.nats.item() == pytest.approx(other.nats.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("rows", "row_bytes", "pieces"),
    [(8, 10, 1), (8, 20, 2), (8, 21, 4), (6, 27, 3), (7, 27, 7), (4, 900, 4), (1, 900, 1)],
)
def test_pieces_are_as_few_as_fit_and_equal(rows, row_bytes, pieces):
    assert num_pieces(rows, row_bytes=row_bytes, most=80) == pieces


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"z_loss": -0.1}, "z_loss must be"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)
