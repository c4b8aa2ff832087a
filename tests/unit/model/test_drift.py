"""The error of the stream after each virtual layer against sums written out, and how it grows."""

import math

import pytest
import torch

from models import TECHNIQUES, build_model, model_config, tokens
from nutshell.model.probes.drift import drift
from nutshell.model.probes.trace import eager_twin

CASES = {"one stream": {}, "lanes": TECHNIQUES["lanes"]}


def two_models(changes, *, noise):
    """Give a model, another whose weights are off by a little, and their schedule."""
    model, schedule = build_model(model_config(**changes))
    other, _ = build_model(model_config(**changes))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(noise * torch.randn(value.shape, generator=generator))
    return model, other, schedule


def streams(model, schedule, text):
    """Every virtual layer's stream as lists of tokens' vectors, its lanes one after the other; the trunk by hand."""
    found = []
    with torch.no_grad():
        stream = model.stream(text, dtype=torch.float32, attend_kind="fused")
        state, saved = model.carry.start(stream.x0.clone()), {}
        for visit in schedule.visits:
            for skip in schedule.skips:
                if skip.target == visit:
                    joined = model.skips[skip.key](model.carry.read(state), saved[skip.source.index])
                    state = model.carry.write(state, joined)
            state, _ = model.blocks[visit.block](state, visit, stream)
            saved[visit.index] = model.carry.read(state)
            both = torch.cat(state, dim=-1) if isinstance(state, tuple) else state
            found.append(both.flatten(0, 1).double().tolist())
    return stream.x0.flatten(0, 1).double().tolist(), found


def relative_error(wanted, found):
    pairs = [(a, b) for one, two in zip(wanted, found, strict=True) for a, b in zip(one, two, strict=True)]
    return math.sqrt(sum((b - a) ** 2 for a, b in pairs) / sum(a * a for a, _ in pairs))


def mean_cosine(wanted, found):
    cosines = []
    for one, two in zip(wanted, found, strict=True):
        dot = sum(a * b for a, b in zip(one, two, strict=True))
        cosines.append(dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in two)))
    return sum(cosines) / len(cosines)


@pytest.mark.parametrize("case", CASES)
def test_error_cosine_and_growth_are_what_they_say(case):
    exact, packed, schedule = two_models(CASES[case], noise=0.01)
    text = tokens(2, 6)
    reading = drift(eager_twin(exact, [schedule]), eager_twin(packed, [schedule]), schedule, text, text)
    (x0, wanted), (other_x0, found) = (streams(model, schedule, text) for model in (exact, packed))
    assert reading.input_error == pytest.approx(relative_error(x0, other_x0), rel=1e-6)
    errors = [relative_error(*pair) for pair in zip(wanted, found, strict=True)]
    cosines = [mean_cosine(*pair) for pair in zip(wanted, found, strict=True)]
    assert [visit.error for visit in reading.visits] == pytest.approx(errors, rel=1e-5)
    assert [visit.cosine for visit in reading.visits] == pytest.approx(cosines, rel=1e-6)
    # 0 (1-2)x2 3: blocks 1 and 2 run at 1, 2 and again at 3, 4
    assert [visit.growth for visit in reading.visits] == [
        None,
        None,
        None,
        pytest.approx(errors[3] / errors[1], rel=1e-4),
        pytest.approx(errors[4] / errors[2], rel=1e-4),
        None,
    ]
    assert [(row.number, row.error) for row in reading.passes] == [
        (1, pytest.approx(errors[2], rel=1e-5)),
        (2, pytest.approx(errors[4], rel=1e-5)),
    ]
    assert [row.growth for row in reading.passes] == [None, pytest.approx(errors[4] / errors[2], rel=1e-4)]


def test_losses_are_of_the_two_models_in_this_order():
    exact, packed, schedule = two_models({}, noise=0.1)
    inputs, targets = tokens(2, 6), tokens(2, 6, seed=1)
    reading = drift(eager_twin(exact, [schedule]), eager_twin(packed, [schedule]), schedule, inputs, targets)
    for model, found in ((exact, reading.exact_loss), (packed, reading.packed_loss)):
        log_probs = model(inputs, schedule).double().log_softmax(dim=-1)
        nats = [-log_probs[row, at, targets[row, at]].item() for row in range(2) for at in range(6)]
        assert found == pytest.approx(sum(nats) / 12, rel=1e-6)


def test_the_same_weights_have_no_error_and_a_growth_of_nothing():
    model, schedule = build_model(model_config())
    twins = [eager_twin(model, [schedule]) for _ in range(2)]
    reading = drift(*twins, schedule, tokens(1, 5), tokens(1, 5))
    assert reading.input_error == 0.0
    assert all(visit.error == 0.0 for visit in reading.visits)
    assert math.isnan(reading.visits[3].growth)


def test_more_passes_than_trained_and_none_at_all():
    exact, packed, schedule = two_models({}, noise=0.01)
    twins = eager_twin(exact, [schedule]), eager_twin(packed, [schedule])
    longer = drift(*twins, schedule.extended("0 (1-2)x4 3"), tokens(1, 5), tokens(1, 5))
    assert [row.number for row in longer.passes] == [1, 2, 3, 4]
    assert drift(*twins, schedule.extended("0-3"), tokens(1, 5), tokens(1, 5)).passes == []


def test_models_are_only_read():
    exact, packed, schedule = two_models({}, noise=0.01)
    before = [value.clone() for model in (exact, packed) for value in model.parameters()]
    drift(exact, packed, schedule, tokens(1, 5), tokens(1, 5))
    assert all(map(torch.equal, before, [value for model in (exact, packed) for value in model.parameters()]))
    assert all(value.grad is None for model in (exact, packed) for value in model.parameters())
