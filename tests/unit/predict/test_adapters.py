"""Per-document adapters against one row in float64, with merged weights and AdamW written out."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models import VOCAB, build_model, model_config
from nutshell.errors import RecipeError
from nutshell.nn.adapters import HEAD
from nutshell.predict.adapters import AdapterConfig, DocumentAdapters
from nutshell.predict.predictor import ModelPredictor
from nutshell.score.predictor import Scored

CONTEXT, STEP = 12, 5
# Flat, so that each place has a matrix of its own into which its correction can be merged.
FLAT = {"depth": {"schedule": "0-3", "skips": "mirror"}}
MLPS = {
    "relu2": {"kind": "relu2", "mlp_dim": 40},
    "swiglu": {"kind": "swiglu", "mlp_dim": 40},
    "low rank": {"kind": "relu2", "mlp_dim": 40, "up": {"kind": "low_rank", "rank": 4}},
}


def shipped(**changes):
    """A model whose silent branches have been given something to say."""
    model, schedule = build_model(model_config(**changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)
    return SimpleNamespace(model=model.eval().requires_grad_(False), schedule=schedule, context=CONTEXT)


def texts(rows, length, seed=0):
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (rows, length + 1))
    return tokens[:, :-1], tokens[:, 1:]


def read(learner, inputs, targets, *, learn=True):
    """Score rows step by step, learning after each; give the nats."""
    learner.begin(len(inputs))
    nats = []
    for first in range(0, inputs.shape[1], STEP):
        stop = min(first + STEP, inputs.shape[1])
        nats.append(learner.nats(inputs[:, max(0, stop - CONTEXT) : stop], targets[:, first:stop]))
        if learn and stop < inputs.shape[1]:
            learner.observe([Scored(i, t) for i, t in zip(inputs[:, first:stop], targets[:, first:stop], strict=True)])
    return np.concatenate(nats, axis=1)


def by_hand(model, schedule, learner, config, inputs, targets):
    """One row: products with merged weights, its own backward, its own AdamW, all in float64."""
    model = copy.deepcopy(model).double()
    scale = config.alpha / config.rank
    factors = {}
    for place, (a, b) in learner._factors.items():
        factors[place] = [a[0].detach().double().requires_grad_(), torch.zeros_like(b[0]).double().requires_grad_()]
    moments = {place: [[torch.zeros_like(v), torch.zeros_like(v)] for v in pair] for place, pair in factors.items()}
    plain = {name: value.detach().clone() for name, value in model.named_parameters()}
    nats, time = [], 0
    for first in range(0, len(inputs), STEP):
        stop = min(first + STEP, len(inputs))
        merged = dict(plain)
        for (index, name), (a, b) in factors.items():
            if (index, name) == HEAD:
                continue
            part = "attentions" if name in ("q", "k", "v", "out") else "mlps"
            key = f"blocks.{schedule.visits[index].block}.{part}.0.{name}.weight"
            merged[key] = plain[key] + scale * b @ a

        def run(window):
            stream = model.stream(window, dtype=torch.float64, attend_kind="products")
            return model.trunk(stream, schedule)

        window = torch.from_numpy(inputs[max(0, stop - CONTEXT) : stop])[None]
        x = torch.func.functional_call(_Trunk(model, run), {f"model.{k}": v for k, v in merged.items()}, (window,))
        h = x[0] / (x[0].square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
        head = plain["embedding"]
        if HEAD in factors:
            head = head + scale * factors[HEAD][1] @ factors[HEAD][0]
        losses = F.cross_entropy((h @ head.T)[first - stop :], torch.from_numpy(targets[first:stop]), reduction="none")
        nats.append(losses.detach().numpy())
        if stop == len(inputs):
            break
        flat = [v for pair in factors.values() for v in pair]
        grads = iter(torch.autograd.grad(losses.mean(), flat))
        time += 1
        for place, pair in factors.items():
            for number, value in enumerate(pair):
                grad, (mean, square) = next(grads), moments[place][number]
                with torch.no_grad():
                    value.mul_(1 - config.lr * config.weight_decay)
                    mean.mul_(config.betas[0]).add_((1 - config.betas[0]) * grad)
                    square.mul_(config.betas[1]).add_((1 - config.betas[1]) * grad**2)
                    step = mean / (1 - config.betas[0] ** time)
                    value.sub_(config.lr * step / ((square / (1 - config.betas[1] ** time)).sqrt() + 1e-8))
    return np.concatenate(nats)


class _Trunk(torch.nn.Module):
    def __init__(self, model, run):
        super().__init__()
        self.model, self.run = model, run

    def forward(self, window):
        return self.run(window)


@pytest.mark.parametrize("matrices", [(), ("q", "down"), ("head",)])
def test_nats_are_those_of_merged_weights_and_a_written_out_adamw(matrices):
    model = shipped(**FLAT)
    config = AdapterConfig(rank=3, alpha=6.0, lr=0.02, betas=(0.5, 0.9), weight_decay=0.1, matrices=matrices)
    inputs, targets = texts(3, 18)
    learner = DocumentAdapters(model, config)
    found = read(learner, inputs, targets)
    fresh = DocumentAdapters(model, config)
    for row in range(3):
        expected = by_hand(model.model, model.schedule, fresh, config, inputs[row], targets[row])
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=2e-3)
    frozen = read(DocumentAdapters(model, AdapterConfig(lr=0.0)), inputs, targets)
    assert np.abs(found - frozen)[:, STEP:].max() > 0.05, "it has learned something"


@pytest.mark.parametrize("changes", [{}, FLAT, *({"mlp": mlp} for mlp in MLPS.values())])
def test_a_fresh_row_and_a_rate_of_zero_are_the_frozen_model_to_the_bit(changes):
    model = shipped(**changes)
    inputs, targets = texts(2, CONTEXT)
    frozen = ModelPredictor(model).nats(inputs, targets)
    learner = DocumentAdapters(model, AdapterConfig(lr=0.0, rank=2))
    learner.begin(2)
    assert np.array_equal(learner.nats(inputs, targets), frozen)
    learner.observe([Scored(i, t) for i, t in zip(inputs, targets, strict=True)])
    assert np.array_equal(learner.nats(inputs, targets), frozen)


@pytest.mark.parametrize("changes", [{}, *({"mlp": mlp} for mlp in MLPS.values())])
def test_every_place_learns_and_visits_of_a_block_learn_apart(changes):
    model = shipped(**changes)
    learner = DocumentAdapters(model, AdapterConfig(lr=0.01, rank=2))
    read(learner, *texts(1, 12))
    names = {"q", "k", "v", "out", "up", "down"} | (
        {"gate"} if changes.get("mlp", {}).get("kind") == "swiglu" else set()
    )
    assert set(learner._factors) == {(v.index, name) for v in model.schedule.visits for name in names} | {HEAD}
    assert all(factors.b.abs().max() > 0 for factors in learner._factors.values())
    blocks = [visit.block for visit in model.schedule.visits]
    first, second = (index for index, block in enumerate(blocks) if block == 1)
    assert not torch.equal(learner._factors[first, "q"].b, learner._factors[second, "q"].b)


def test_rows_never_influence_one_another():
    model, config = shipped(), AdapterConfig(lr=0.02, rank=2)
    inputs, targets = texts(3, 18)
    together = read(DocumentAdapters(model, config), inputs, targets)
    others = texts(3, 18, seed=5)
    others[0][1], others[1][1] = inputs[1], targets[1]
    np.testing.assert_allclose(read(DocumentAdapters(model, config), *others)[1], together[1], rtol=0, atol=1e-4)


def test_the_future_changes_nothing_before_it():
    model, config = shipped(), AdapterConfig(lr=0.02, rank=2)
    inputs, targets = texts(1, 18)
    before = read(DocumentAdapters(model, config), inputs, targets)
    for position in (3, 7, 11, 16):
        flipped = targets.copy()
        flipped[0, position] = (flipped[0, position] + 1) % VOCAB
        moved = np.concatenate([inputs[:, :1], flipped[:, :-1]], axis=1)
        after = read(DocumentAdapters(model, config), moved, flipped)
        np.testing.assert_array_equal(after[:, :position], before[:, :position])


def test_a_new_batch_has_learned_nothing_and_kept_rows_go_on():
    model, config = shipped(), AdapterConfig(lr=0.02, rank=2)
    inputs, targets = texts(3, 18)
    learner = DocumentAdapters(model, config)
    first = read(learner, inputs, targets)
    np.testing.assert_array_equal(read(learner, inputs, targets), first)

    learner.begin(3)
    learner.nats(inputs[:, :STEP], targets[:, :STEP])
    learner.observe([Scored(i[:STEP], t[:STEP]) for i, t in zip(inputs, targets, strict=True)])
    learner.keep(np.array([0, 2]))
    window, scored = slice(0, 2 * STEP), slice(STEP, 2 * STEP)
    nats = learner.nats(inputs[[0, 2], window], targets[[0, 2], scored])
    np.testing.assert_allclose(nats, first[[0, 2], scored], rtol=0, atol=1e-4)
    learner.observe([Scored(inputs[row, scored], targets[row, scored]) for row in (0, 2)])
    nats = learner.nats(inputs[[0, 2], 15 - CONTEXT : 15], targets[[0, 2], 10:15])
    np.testing.assert_allclose(nats, first[[0, 2], 10:15], rtol=0, atol=1e-3)


def test_what_is_kept_from_batch_to_batch_is_a():
    model = shipped()
    inputs, targets = texts(2, 12)
    for keep_a in (False, True):
        learner = DocumentAdapters(model, AdapterConfig(lr=0.02, rank=2, keep_a=keep_a))
        drawn = learner._factors[0, "q"].a.detach().clone()
        read(learner, inputs, targets)
        learned = learner._factors[0, "q"].a.detach().clone()
        learner.begin(3)
        assert not torch.equal(learned[:1], drawn)
        assert torch.equal(learner._factors[0, "q"].a[:2], learned if keep_a else drawn.expand(2, -1, -1))
        assert torch.equal(learner._factors[0, "q"].a[2:], drawn)
        assert learner._factors[0, "q"].b.abs().max() == 0


def test_padding_is_not_learned():
    """Of a row that ends within a step, only the scored targets count."""
    model, config = shipped(), AdapterConfig(lr=0.02, rank=2)
    inputs, targets = texts(2, 10)
    results = []
    for padding in (0, 1):
        learner = DocumentAdapters(model, config)
        learner.begin(2)
        padded_inputs, padded_targets = inputs[:, :STEP].copy(), targets[:, :STEP].copy()
        padded_inputs[1, 3:] = padded_targets[1, 3:] = padding
        learner.nats(padded_inputs, padded_targets)
        learner.observe(
            [Scored(inputs[0, :STEP], targets[0, :STEP]), Scored(inputs[1, :3], targets[1, :3])],
        )
        results.append([value.detach().clone() for factors in learner._factors.values() for value in factors])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_only_what_was_scored_last_can_be_learned():
    learner = DocumentAdapters(shipped(), AdapterConfig(rank=2))
    inputs, targets = texts(1, STEP)
    learner.begin(1)
    learner.nats(inputs, targets)
    with pytest.raises(AssertionError, match="not the targets that were scored last"):
        learner.observe([Scored(inputs[0], (targets[0] + 1) % VOCAB)])
    learner.observe([Scored(inputs[0], targets[0])])
    with pytest.raises(AssertionError, match="nothing was scored"):
        learner.observe([Scored(inputs[0], targets[0])])


def test_the_model_needs_no_gradients_and_stays_as_it_is():
    model = shipped()
    before = {name: value.clone() for name, value in model.model.named_parameters()}
    read(DocumentAdapters(model, AdapterConfig(lr=0.1, rank=2)), *texts(2, 18))
    assert all(torch.equal(before[name], value) for name, value in model.model.named_parameters())
    assert all(value.grad is None and not value.requires_grad for value in model.model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": 0.0}, "alpha"),
        ({"lr": -1.0}, "lr"),
        ({"betas": (0.0, 1.0)}, "betas"),
        ({"matrices": ("q", "q")}, "twice"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**change)


def test_a_matrix_that_the_model_has_not_is_refused():
    with pytest.raises(RecipeError, match="this model has no 'gate', only q, k, v, out, up, down, head"):
        DocumentAdapters(shipped(), AdapterConfig(matrices=("gate",)))
