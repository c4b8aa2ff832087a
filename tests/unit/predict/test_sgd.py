"""Chunked SGD against a reference in float64 with hand-written steps; freezing, untying, ranks by their own means."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models import VOCAB, build_model, model_config
from nutshell.errors import RecipeError
from nutshell.predict.predictor import ModelPredictor
from nutshell.predict.sgd import SGDConfig, SGDLearner
from nutshell.ranks import ALONE
from nutshell.score.predictor import Scored

CONTEXT = 8


@pytest.fixture
def shipped():
    """A looped model whose silent branches have been given something to say."""
    model, schedule = build_model(model_config())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)
    return SimpleNamespace(model=model.eval().requires_grad_(False), schedule=schedule, context=CONTEXT)


def text(length, seed=0):
    tokens = np.random.default_rng(seed).integers(0, VOCAB, length + 1)
    return Scored(tokens[:-1], tokens[1:])


def weights(learner):
    return {name: value.detach().clone() for name, value in learner.model.named_parameters()}


def by_hand(shipped, chunks, *, lr, momentum, epochs, batch_targets, clip):
    """Float64, one sequence at a time, `backward` on each, the published update written out."""
    model = copy.deepcopy(shipped.model).double().requires_grad_(True)
    params = list(model.parameters())
    velocity = [torch.zeros_like(value) for value in params]
    for stretches, progress in chunks:
        rate = lr * (1 + math.cos(math.pi * progress)) / 2
        sequences = [
            (seen.inputs[at : at + CONTEXT], seen.targets[at : at + CONTEXT])
            for seen in stretches
            for at in range(0, len(seen.targets), CONTEXT)
        ]
        batches = [[]]
        for sequence in sequences:
            batches[-1].append(sequence)
            if sum(len(targets) for _, targets in batches[-1]) >= batch_targets:
                batches.append([])
        for _ in range(epochs):
            for batch in filter(None, batches):
                model.zero_grad()
                count = sum(len(targets) for _, targets in batch)
                for inputs, targets in batch:
                    stream = model.stream(torch.from_numpy(inputs)[None], dtype=torch.float64, attend_kind="products")
                    x = model.trunk(stream, shipped.schedule)[0]
                    z = x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
                    loss = F.cross_entropy(z @ model.head_weight.T, torch.from_numpy(targets), reduction="sum")
                    (loss / count).backward()
                grads = [torch.zeros_like(v) if v.grad is None else v.grad.clone() for v in params]
                norm = math.sqrt(sum(float((grad**2).sum()) for grad in grads))
                factor = min(1.0, clip / norm)
                with torch.no_grad():
                    for value, speed, grad in zip(params, velocity, grads, strict=True):
                        speed.mul_(momentum).add_(grad * factor)
                        value.sub_(rate * speed)
    return dict(model.named_parameters())


@pytest.mark.parametrize(("batch_targets", "clip"), [(None, 100.0), (16, 100.0), (16, 0.1)])
def test_steps_are_those_of_the_formula(shipped, batch_targets, clip):
    chunks = [([text(20), text(7, 1)], 0.0), ([text(30, 2)], 0.5)]
    config = SGDConfig(lr=0.3, momentum=0.9, epochs=2, batch_targets=batch_targets, clip=clip)
    learner = SGDLearner(shipped, config, batch_tokens=2 * CONTEXT)
    for chunk in chunks:
        learner.observe(*chunk)
    expected = by_hand(
        shipped, chunks, lr=0.3, momentum=0.9, epochs=2, batch_targets=batch_targets or 10_000, clip=clip
    )
    before = dict(shipped.model.named_parameters())
    moved = 0
    for name, value in weights(learner).items():
        change = (expected[name] - before[name]).detach()
        torch.testing.assert_close((value - before[name]).double(), change, rtol=2e-3, atol=2e-6)
        moved += change.abs().max() > 1e-3
    assert moved > 5


def test_the_model_that_was_loaded_stays_as_it_is_and_needs_no_gradients(shipped):
    before = {name: value.clone() for name, value in shipped.model.named_parameters()}
    learner = SGDLearner(shipped, SGDConfig(lr=0.1))
    learner.observe([text(20)], 0.0)
    assert all(torch.equal(before[name], value) for name, value in shipped.model.named_parameters())
    assert not any(value.requires_grad for value in learner.model.parameters())


def test_at_rate_zero_it_is_the_frozen_model_to_the_bit(shipped):
    learner, frozen = SGDLearner(shipped, SGDConfig(lr=0.0)), ModelPredictor(shipped)
    learner.observe([text(40)], 0.0)
    inputs, targets = text(16).inputs.reshape(2, 8), text(16).targets.reshape(2, 8)
    assert np.array_equal(learner.nats(inputs, targets), frozen.nats(inputs, targets))


def test_it_learns_what_it_is_told(shipped):
    learner, seen = SGDLearner(shipped, SGDConfig(lr=0.1, epochs=5)), text(8)
    before = learner.nats(seen.inputs[None], seen.targets[None]).mean()
    for _ in range(5):
        learner.observe([seen], 0.0)
    assert learner.nats(seen.inputs[None], seen.targets[None]).mean() < before - 0.5


def test_the_rate_falls_to_nothing_at_the_end_of_the_text(shipped):
    learner = SGDLearner(shipped, SGDConfig(lr=0.1))
    before = weights(learner)
    learner.observe([text(20)], 1.0)
    assert all(torch.equal(before[name], value) for name, value in weights(learner).items())


def test_what_is_frozen_stays_to_the_bit_and_all_else_moves(shipped):
    learner = SGDLearner(shipped, SGDConfig(lr=0.5, freeze=("embedding", "blocks.0.*")))
    before = weights(learner)
    learner.observe([text(40)], 0.0)
    for name, value in weights(learner).items():
        frozen = name == "embedding" or name.startswith("blocks.0.")
        assert torch.equal(before[name], value) == frozen, name


def test_untied_visits_start_alike_and_learn_apart(shipped):
    tied, untied = (SGDLearner(shipped, SGDConfig(lr=0.5, untie=untie)) for untie in (False, True))
    seen = text(16)
    inputs, targets = seen.inputs.reshape(2, 8), seen.targets.reshape(2, 8)
    assert np.array_equal(tied.nats(inputs, targets), untied.nats(inputs, targets))
    untied.observe([text(40)], 0.0)
    tied.observe([text(40)], 0.0)
    assert not np.allclose(tied.nats(inputs, targets), untied.nats(inputs, targets), atol=1e-4)
    looped = [block for block in untied.model.blocks if hasattr(block, "visits")]
    assert looped
    for block in looped:
        first, second = (dict(visit.named_parameters()) for visit in block.visits)
        assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_untying_sums_to_the_tied_gradient(shipped):
    """One step, small and unclipped: what a tied weight moves is the sum of what its visits' copies move."""
    config = {"lr": 1e-3, "momentum": 0.0, "epochs": 1, "clip": None}
    tied, untied = (SGDLearner(shipped, SGDConfig(untie=untie, **config)) for untie in (False, True))
    before = {name: value.clone() for name, value in shipped.model.named_parameters()}
    for learner in (tied, untied):
        learner.observe([text(40)], 0.0)
    for place, block in enumerate(untied.model.blocks):
        if not hasattr(block, "visits"):
            continue
        for name, value in tied.model.blocks[place].named_parameters():
            start = before[f"blocks.{place}.{name}"]
            moves = sum(dict(visit.named_parameters())[name] - start for visit in block.visits)
            torch.testing.assert_close(moves, value - start, rtol=1e-2, atol=1e-7)


class Half:
    """One of two ranks, alone in its process: what the other would add is computed beside it."""

    def __init__(self, rank, others):
        self.rank, self.size, self._others = rank, 2, others

    def add(self, value):
        self._others.append(value.clone())
        return value


def test_ranks_share_the_sequences_of_a_step(shipped):
    """The two halves' gradients add up to the whole one, for an odd number of sequences too."""
    config = SGDConfig(lr=0.0, epochs=1, clip=None)
    sums = []
    for rank in range(2):
        SGDLearner(shipped, config, ranks=Half(rank, sums)).observe([text(CONTEXT * 5)], 0.0)

    class Whole(Half):
        size = 1

        def __init__(self):
            super().__init__(0, [])
            self.size = 1

    alone = Whole()
    SGDLearner(shipped, config, ranks=alone).observe([text(CONTEXT * 5)], 0.0)
    torch.testing.assert_close(sums[0] + sums[1], alone._others[0], rtol=1e-4, atol=1e-7)
    assert ALONE.size == 1


def test_settings_without_effect_are_refused(shipped):
    with pytest.raises(RecipeError, match=r"freeze 'blocks\.9\.\*' is no weight"):
        SGDLearner(shipped, SGDConfig(lr=0.1, freeze=("blocks.9.*",)))
    with pytest.raises(RecipeError, match="every weight is frozen"):
        SGDLearner(shipped, SGDConfig(lr=0.1, freeze=("*",)))
    model, schedule = build_model(model_config(depth={"schedule": "0-1"}))
    flat = SimpleNamespace(model=model, schedule=schedule, context=CONTEXT)
    with pytest.raises(RecipeError, match="untie has no effect"):
        SGDLearner(flat, SGDConfig(lr=0.1, untie=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"epochs": 0}, "epochs"),
        ({"batch_targets": 0}, "batch_targets"),
        ({"clip": 0.0}, "clip"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SGDConfig(**{"lr": 0.1, **change})
