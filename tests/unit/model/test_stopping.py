"""Early stops against whole runs of every number of passes, one sequence at a time in float64 sums."""

import math

import pytest
import torch

from models import ALL_TOGETHER, TECHNIQUES, build_model, model_config, tokens
from nutshell.model.probes.stopping import early_stop, loops
from nutshell.model.probes.trace import eager_twin

LONGER = "0 (1-2)x4 3"
MODELS = {"all together": ALL_TOGETHER, "lanes": TECHNIQUES["lanes"], "skips": TECHNIQUES["add_skip"]}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0-3", []),
        ("0 (1)x1 2", []),
        ("0 (1-2)x3 3", [("(1-2)x3", [2, 4, 6], "0 (1-2)x2 3")]),
        ("(0-1)x2", [("(0-1)x2", [1, 3], "(0-1)x2")]),
        ("(0)x2 1 (2 3)x3", [("(0)x2", [0, 1], "(0)x2 1 (2 3)x3"), ("(2 3)x3", [4, 6, 8], "(0)x2 1 (2 3)x2")]),
        ("0 ((1)x2 2)x3", []),  # a loop in a loop, and around one
    ],
)
def test_the_loops_of_a_schedule(text, found):
    listed = [(loop.text, [loop.end(n) for n in range(1, loop.passes + 1)], loop.times(2)) for loop in loops(text)]
    assert listed == found


class Sequence:
    """One sequence's streams as each pass ends, and its loss after each number of passes, every one run whole."""

    def __init__(self, model, schedules, inputs, targets):
        self.ends, self.losses = [], []
        for passes, schedule in enumerate(schedules, start=1):
            last = 2 * passes  # 0 (1-2)xN 3: layer 2N is block 2 in its last pass
            streams = []
            hook = model.blocks[2].register_forward_hook(lambda _, args, out, s=streams: s.append((args[1], out[0])))
            with torch.no_grad():
                logits = model(inputs[None], schedule)[0].double()
            hook.remove()
            state = next(state for visit, state in streams if visit.index == last)
            both = torch.cat(state, dim=-1) if isinstance(state, tuple) else state
            self.ends.append(both.flatten().double().tolist())
            nats = [-logits[t].log_softmax(dim=-1)[target].item() for t, target in enumerate(targets.tolist())]
            self.losses.append(sum(nats) / len(nats))

    def deltas(self):
        """Relative change of each pass but the first."""
        found = []
        for earlier, later in zip(self.ends, self.ends[1:], strict=False):
            change = math.sqrt(sum((b - a) ** 2 for a, b in zip(earlier, later, strict=True)) / len(later))
            found.append(change / (math.sqrt(sum(a * a for a in earlier) / len(earlier)) + 1e-8))
        return found

    def stop(self, eps):
        """After how many passes it stops."""
        return next((n for n, delta in enumerate(self.deltas(), start=2) if delta < eps), len(self.ends))


@pytest.fixture(params=MODELS)
def run(request):
    """A reading of three sequences, and each of them by itself."""
    model, schedule = build_model(model_config(**MODELS[request.param]))
    (loop,) = loops(LONGER)
    schedules = [schedule.extended(loop.times(passes)) for passes in range(1, 5)]
    inputs, targets = tokens(3, 7), tokens(3, 7, seed=1)
    alone = [Sequence(model, schedules, *pair) for pair in zip(inputs, targets, strict=True)]
    deltas = sorted(delta for sequence in alone for delta in sequence.deltas())
    eps = (sum(deltas[4:6]) / 2, 1e-9, 1e9)
    twin = eager_twin(model, [schedule])
    return early_stop(twin, loop, schedules, inputs, targets, eps=eps), alone


def near(value):
    return pytest.approx(value, rel=1e-4)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_loss_and_change_of_every_pass(run):
    reading, alone = run
    assert (reading.loop, reading.sequences) == ("(1-2)x4", 3)
    assert [row.passes for row in reading.passes] == [1, 2, 3, 4]
    assert [row.schedule for row in reading.passes][2:] == ["0 (1-2)x3 3", LONGER]
    deltas = [mean(column) for column in zip(*(sequence.deltas() for sequence in alone), strict=True)]
    for index, row in enumerate(reading.passes):
        assert row.loss == near(mean(sequence.losses[index] for sequence in alone))
        assert row.delta == (near(deltas[index - 1]) if index else None)
        assert row.ratio == (near(deltas[index - 1] / deltas[index - 2]) if index > 1 else None)
    changes = [b - a for one in alone for a, b in zip(one.ends[1], one.ends[2], strict=True)]
    assert reading.passes[0].increment is None
    assert reading.passes[2].increment == near(math.sqrt(sum(c * c for c in changes) / len(changes)))


def test_every_sequence_stops_by_itself(run):
    reading, alone = run
    for row in reading.stops:
        passes = [sequence.stop(row.eps) for sequence in alone]
        assert (row.mean_passes, row.fewest, row.most) == (near(mean(passes)), min(passes), max(passes))
        assert row.loss == near(mean(one.losses[n - 1] for one, n in zip(alone, passes, strict=True)))
        assert row.unmet == sum(all(delta >= row.eps for delta in sequence.deltas()) for sequence in alone)


def test_a_bound_that_nothing_meets_is_the_whole_loop_and_one_that_all_meet_is_two_passes(run):
    reading, _ = run
    _, never, at_once = reading.stops
    assert (never.fewest, never.most, never.unmet) == (4, 4, 3)
    assert never.loss == reading.passes[-1].loss
    assert (at_once.fewest, at_once.most, at_once.unmet) == (2, 2, 0)
    assert at_once.loss == reading.passes[1].loss


def test_with_the_trained_passes_it_is_the_normal_forward():
    model, schedule = build_model(model_config(**ALL_TOGETHER))
    (loop,) = loops(schedule.text)
    schedules = [schedule.extended(loop.times(passes)) for passes in (1, 2)]
    inputs, targets = tokens(2, 6), tokens(2, 6, seed=1)
    reading = early_stop(eager_twin(model, [schedule]), loop, schedules, inputs, targets, eps=[1e-9])
    with torch.no_grad():
        plain = torch.nn.functional.cross_entropy(model(inputs, schedule).flatten(0, 1), targets.flatten())
    assert reading.stops[0].loss == pytest.approx(plain.item(), rel=1e-6)
