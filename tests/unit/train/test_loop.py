import math
import os
import signal

import numpy as np
import pytest
import torch

from models import VOCAB, model_config
from nutshell.errors import RunError
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.optim.config import OptimConfig
from nutshell.train.averaging import Averaged
from nutshell.train.checkpoint import Change, Checkpoint, Conditions, Identity
from nutshell.train.clock import Spent
from nutshell.train.compute import Compute
from nutshell.train.config import BudgetConfig, TrainConfig
from nutshell.train.loop import Interrupted, Plan, prepare, train
from nutshell.train.loss import TrainingLoss
from nutshell.train.phases import Phase, draw
from nutshell.train.state import TrainState

IDENTITY = Identity(recipe_digest="r", data_digest="d", seed=0, compute_dtype="fp32")
EAGER = Compute(dtype=torch.float32, attend_kind="fused", compiled=False)


class Pattern:
    """A text that can be learnt: counting up, each row from its own start."""

    def batch(self, step):
        starts = np.random.default_rng(step).integers(0, VOCAB, (4, 1))
        window = (starts + np.arange(17)) % VOCAB
        return window[:, :-1], window[:, 1:]


def set_up(tmp_path, *, steps=12, **optim):
    """A run in two phases: flat, then of two or three passes as each step draws."""
    config = model_config(
        inputs=[{"kind": "embed_norm"}], residual={"kind": "sequential", "entry": [{"kind": "x0_mix"}]}
    )
    settings = TrainConfig(budget=BudgetConfig(steps=steps), batch_size=4, seq_len=16, ema_decay=0.9)
    flat, longer, final = (config.depth.variant(text) for text in ("0-3", "0 (1-2)x3 3", "0 (1-2)x2 3"))
    phases = (Phase(0.5, (flat,)), Phase(1.0, (longer, final)))
    plan = Plan(settings, phases, tmp_path / "checkpoint.safetensors", IDENTITY)
    model = LM(config, plan.schedules)
    model.init_weights(0)
    state = TrainState(model, settings, OptimConfig(**optim), dtype=torch.float32)
    return plan, state, TrainingLoss(model, EAGER, settings)


def final_state(state):
    return {name: value.clone() for name, value in state.checkpoint(IDENTITY).tensors.items()}


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_training_learns_logs_every_step_and_switches_phase(tmp_path):
    rows = []
    plan, state, loss = set_up(tmp_path, steps=40)
    train(plan, state, loss, Pattern(), rows.append)
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["loss"] == pytest.approx(math.log(VOCAB), rel=0.05)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert [row["phase"] for row in rows] == [0] * 20 + [1] * 20
    assert {row["schedule"] for row in rows[:20]} == {"0-3"}
    drawn = [draw(plan.phases[1], seed=IDENTITY.seed, step=step).text for step in range(20, 40)]
    assert [row["schedule"] for row in rows[20:]] == drawn
    assert set(drawn) == {"0 (1-2)x2 3", "0 (1-2)x3 3"}
    assert rows[-1]["tokens"] == 40 * 64
    assert rows[-1]["lr"] < rows[0]["lr"] == 1.0


def test_two_runs_are_bitwise_equal(tmp_path):
    ends = []
    for _ in range(2):
        plan, state, loss = set_up(tmp_path)
        train(plan, state, loss, Pattern(), lambda _: None)
        ends.append(final_state(state))
    assert_equal(*ends)


@pytest.mark.parametrize("stop_at", [1, 5, 6, 8, 11])
def test_a_run_killed_after_a_checkpoint_ends_bitwise_equal_when_resumed(tmp_path, stop_at):
    plan, state, loss = set_up(tmp_path)
    train(plan, state, loss, Pattern(), lambda _: None)
    whole = final_state(state)

    class KilledError(Exception):
        pass

    def kill(row):
        if row["step"] == stop_at:
            state.checkpoint(IDENTITY).write(plan.checkpoint_path)
        if row["step"] == min(stop_at + 2, 12):
            raise KilledError

    plan, state, loss = set_up(tmp_path)
    with pytest.raises(KilledError):
        train(plan, state, loss, Pattern(), kill)

    plan, state, loss = set_up(tmp_path)
    state.restore(Checkpoint.read(plan.checkpoint_path, IDENTITY))
    assert state.spent.steps == stop_at
    train(plan, state, loss, Pattern(), lambda _: None)
    assert_equal(final_state(state), whole)


def test_ctrl_c_finishes_the_step_saves_and_says_so(tmp_path):
    plan, state, loss = set_up(tmp_path)
    before = signal.getsignal(signal.SIGINT)  # a job in a shell's background ignores it

    def interrupt(row):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped at step 3"):
        train(plan, state, loss, Pattern(), interrupt)
    assert Checkpoint.read(plan.checkpoint_path, IDENTITY).spent.steps == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    plan, state, loss = set_up(tmp_path)

    def interrupt_twice(row):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(plan, state, loss, Pattern(), interrupt_twice)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path):
    plan, state, loss = set_up(tmp_path)

    def poison(row):
        if row["step"] == 2:
            with torch.no_grad():
                state.weights["embedding"].fill_(math.nan)

    with pytest.raises(RunError, match="step 3: the loss is nan"):
        train(plan, state, loss, Pattern(), poison)


def test_preparing_changes_no_weight(tmp_path):
    plan, state, loss = set_up(tmp_path)
    before = final_state(state)
    assert prepare(plan, loss, VOCAB) > 0
    state.optimizers.clear()
    assert_equal(final_state(state), before)


def test_preparing_runs_every_schedule_that_a_step_may_draw(tmp_path):
    plan, _, loss = set_up(tmp_path)
    ran = []

    def note(inputs, targets, schedule):
        ran.append(schedule.text)
        return loss(inputs, targets, schedule)

    prepare(plan, note, VOCAB)
    assert ran == ["0-3", "0 (1-2)x3 3", "0 (1-2)x2 3"]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    plan, state, _ = set_up(tmp_path)
    state.checkpoint(IDENTITY).write(plan.checkpoint_path)
    other = Identity(recipe_digest="r", data_digest="other", seed=0, compute_dtype="fp32")
    with pytest.raises(RunError, match="belongs to another run, its data_digest is d, this run's is other"):
        Checkpoint.read(plan.checkpoint_path, other)


def test_a_checkpoint_of_another_precision_is_refused(tmp_path):
    plan, state, _ = set_up(tmp_path)
    state.checkpoint(IDENTITY).write(plan.checkpoint_path)
    other = Identity(recipe_digest="r", data_digest="d", seed=0, compute_dtype="bf16")
    with pytest.raises(RunError, match="was computed in fp32, and here it would go on in bf16; continue it on"):
        Checkpoint.read(plan.checkpoint_path, other)


def test_a_checkpoint_carries_its_conditions_and_every_change_of_them(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    seen = []
    for steps, conditions in ((3, {"threads": "2"}), (5, {"threads": "2"}), (8, {"threads": "1", "torch": "3"})):
        _, state, _ = set_up(tmp_path)
        state.conditions = Conditions(conditions)
        if path.exists():
            seen.append(state.restore(Checkpoint.read(path, IDENTITY)))
        state.spent.steps = steps
        state.checkpoint(IDENTITY).write(path)
    changes = (Change(5, "threads", "2", "1"), Change(5, "torch", "unknown", "3"))
    assert seen == [(), changes]
    assert Checkpoint.read(path, IDENTITY).conditions == Conditions({"threads": "1", "torch": "3"}, changes)
    _, state, _ = set_up(tmp_path)
    state.conditions = Conditions({"threads": "4"})
    assert [change.after_step for change in state.restore(Checkpoint.read(path, IDENTITY))] == [8, 8]
    assert state.conditions.changes[:2] == changes


def test_a_missing_or_damaged_checkpoint_is_named(tmp_path):
    plan, state, _ = set_up(tmp_path)
    path = plan.checkpoint_path
    with pytest.raises(RunError, match="there is no such file"):
        Checkpoint.read(path, IDENTITY)
    state.checkpoint(IDENTITY).write(path)
    content = path.read_bytes()
    for damaged in (content[:100], content[: len(content) // 2], b"", b"\xff" * 200):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="damaged or not a safetensors file"):
            Checkpoint.read(path, IDENTITY)


def test_the_average_is_its_formula():
    model = LM(model_config(), [model_config().depth.parse()])
    model.init_weights(0)
    average = Averaged(ParamTable.of(model), decay=0.5)
    expected = model.embedding.detach().clone()
    for step in range(1, 8):
        with torch.no_grad():
            model.embedding.add_(1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.embedding.detach()
    torch.testing.assert_close(average.state()["embedding"], expected)


def test_spent_survives_the_checkpoint(tmp_path):
    plan, state, _ = set_up(tmp_path)
    state.spent = Spent(steps=3, tokens=192, seconds=1.5)
    state.checkpoint(IDENTITY).write(plan.checkpoint_path)
    assert Checkpoint.read(plan.checkpoint_path, IDENTITY).spent == Spent(steps=3, tokens=192, seconds=1.5)
