import functools
import math
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch

from models import VOCAB
from nutshell.errors import RunError, UsageError
from nutshell.train import interrupts
from nutshell.train.averaging import EmaConfig, SwaConfig
from nutshell.train.checkpoint import Change, Checkpoint, Conditions, Identity
from nutshell.train.clock import Spent
from nutshell.train.config import BudgetConfig
from nutshell.train.interrupts import Interrupted
from nutshell.train.phases import draw
from nutshell.train.stages import Stages
from small_training import IDENTITY, ONCE, THRICE, TWICE, Pattern, phase, small_run


def two_phases(tmp_path, **settings):
    """A run in two phases: flat, then of two or three passes as each step draws."""
    return small_run(tmp_path, phase(0.5, ONCE), phase(1.0, THRICE, TWICE), **settings)


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_training_learns_logs_every_step_and_switches_phase(tmp_path):
    rows = []
    run = two_phases(tmp_path, steps=40).train(rows.append)
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["loss"] == pytest.approx(math.log(VOCAB), rel=0.05)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert [row["phase"] for row in rows] == [0] * 20 + [1] * 20
    assert {row["schedule"] for row in rows[:20]} == {ONCE}
    drawn = [draw(run.plan.phases[1], seed=IDENTITY.seed, step=step).text for step in range(20, 40)]
    assert [row["schedule"] for row in rows[20:]] == drawn
    assert set(drawn) == {TWICE, THRICE}
    assert rows[-1]["tokens"] == 40 * 64
    assert rows[-1]["lr"] < rows[0]["lr"] == 1.0
    assert all(row["grad_norm"] > 0 for row in rows)


def test_two_runs_are_bitwise_equal(tmp_path):
    assert_equal(*(two_phases(tmp_path).train().tensors() for _ in range(2)))


@pytest.mark.parametrize("stop_at", [1, 5, 6, 8, 11])
def test_a_run_killed_after_a_checkpoint_ends_bitwise_equal_when_resumed(tmp_path, stop_at):
    averages = {"averages": (EmaConfig(decay=0.9), SwaConfig(start=0.5, every=2))}
    whole = two_phases(tmp_path, **averages).train()

    class KilledError(Exception):
        pass

    run = two_phases(tmp_path, **averages)

    def kill(row):
        if row["step"] == stop_at:
            run.state.checkpoint(IDENTITY).write(run.plan.checkpoint_path)
        if row["step"] == min(stop_at + 2, 12):
            raise KilledError

    with pytest.raises(KilledError):
        run.train(kill)
    run = two_phases(tmp_path, **averages)
    run.state.restore(Checkpoint.read(run.plan.checkpoint_path, IDENTITY))
    assert run.state.spent.steps == stop_at
    run.train()
    assert_equal(run.tensors(), whole.tensors())
    assert untimed(run.state.record) == untimed(whole.state.record)


def untimed(record):
    """What a record says that no clock has a part in."""
    features = {name: (act.first_step, act.last_step, act.steps, act.tokens) for name, act in record.features.items()}
    return features, record.grad_norm, record.loss, record.spikes


def test_ctrl_c_finishes_the_step_saves_and_says_so(tmp_path):
    run = two_phases(tmp_path)
    before = signal.getsignal(signal.SIGINT)  # a job in a shell's background ignores it

    def interrupt(row):
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="stopped at step 3"):
        run.train(interrupt)
    assert Checkpoint.read(run.plan.checkpoint_path, IDENTITY).spent.steps == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now)

    def interrupt_twice(row):
        nonlocal now
        os.kill(os.getpid(), signal.SIGINT)
        now += 1.01
        os.kill(os.getpid(), signal.SIGINT)

    run = two_phases(tmp_path)
    with pytest.raises(KeyboardInterrupt) as stopped:
        run.train(interrupt_twice)
    assert not isinstance(stopped.value, Interrupted)
    assert not run.plan.checkpoint_path.exists()


@pytest.mark.parametrize("pause", [0.0, 0.002, 0.05])
def test_a_ctrl_c_that_arrives_twice_is_one(tmp_path, monkeypatch, pause):
    """As under torchrun: from the terminal, and from the launcher that the terminal has told too."""
    monkeypatch.setattr(interrupts, "ONE_REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a slow disk would keep the second one from being heard
    interrupt = functools.partial(os.kill, os.getpid(), signal.SIGINT)
    for _ in range(5):
        run = two_phases(tmp_path, steps=1000)

        def interrupt_twice(row):
            if row["step"] == 3:
                interrupt()
                threading.Timer(pause, interrupt).start()  # it may meet the step, the checkpoint or what follows

        with pytest.raises(Interrupted, match="stopped at step 3"):
            run.train(interrupt_twice)
        assert Checkpoint.read(run.plan.checkpoint_path, IDENTITY).spent.steps == 3
        run.plan.checkpoint_path.unlink()


def test_a_ctrl_c_while_the_last_checkpoint_is_written_does_not_lose_it(tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "ONE_REQUEST_SECONDS", 0.0)
    write = Checkpoint.write

    def interrupted_write(self, path):
        os.kill(os.getpid(), signal.SIGINT)
        write(self, path)

    monkeypatch.setattr(Checkpoint, "write", interrupted_write)
    run = two_phases(tmp_path, steps=2)
    with pytest.raises(Interrupted, match="stopped at step 2"):
        run.train()
    assert Checkpoint.read(run.plan.checkpoint_path, IDENTITY).spent.steps == 2


def test_under_torchrun_the_second_ctrl_c_is_the_launchers_and_the_third_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    now = 100.0
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now)

    def interrupted(times):
        def interrupt(row):
            nonlocal now
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)
                now += 5.0

        run = two_phases(tmp_path)
        with pytest.raises(KeyboardInterrupt) as stopped:
            run.train(interrupt)
        return type(stopped.value)

    assert interrupted(3) is KeyboardInterrupt
    assert interrupted(2) is Interrupted


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step_and_names_what_is_kept(tmp_path):
    run = two_phases(tmp_path)

    def poison(row):
        if row["step"] == 2:
            with torch.no_grad():
                run.state.weights["embedding"].fill_(math.nan)

    with pytest.raises(RunError, match=r"step 3: the loss is nan.*nothing was saved before it"):
        run.train(poison)


def test_a_gradient_that_is_not_finite_stops_the_run_with_step_parameter_and_checkpoint(tmp_path):
    run = two_phases(tmp_path, checkpoint_seconds=1e-9)
    weights = run.state.weights["embedding"]

    def poison(row):
        if row["step"] == 4:
            run.kept = weights.detach().clone()
            weights.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), math.inf))

    with pytest.raises(RunError, match=r"step 5: the gradient of embedding is not finite .* has the run at \d"):
        run.train(poison)
    assert torch.equal(weights, run.kept)  # nothing was stepped
    assert Checkpoint.read(run.plan.checkpoint_path, IDENTITY).spent.steps == 4


def test_preparing_changes_no_bit_of_the_state_and_no_random_number(tmp_path):
    run = two_phases(tmp_path)
    before, random = run.tensors(), torch.get_rng_state()
    assert run.prepare() > 0
    assert_equal(run.tensors(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(value.grad is None for value in run.state.weights.values())
    assert_equal(run.train().tensors(), two_phases(tmp_path).train().tensors())


def test_preparing_runs_every_graph_that_a_step_may_run(tmp_path):
    run = small_run(tmp_path, phase(0.2, ONCE, batch_size=2), phase(0.5, ONCE, seq_len=8), phase(1.0, THRICE, TWICE))
    real, ran = run.gradients.losses[False], []

    def note(inputs, targets, schedule):
        ran.append((schedule.text, *inputs.shape))
        return real(inputs, targets, schedule)

    run.gradients.losses[False] = note
    run.prepare()
    assert ran == [(ONCE, 2, 16), (ONCE, 4, 8), (THRICE, 4, 16), (TWICE, 4, 16)]


def test_phases_change_batch_and_context_and_are_counted(tmp_path):
    rows = []
    small, short = phase(0.25, TWICE, batch_size=2), phase(0.5, TWICE, seq_len=8)
    run = small_run(tmp_path, small, short, phase(1.0, TWICE)).train(rows.append)
    assert [row["batch_tokens"] for row in rows] == [32] * 3 + [32] * 3 + [64] * 6
    assert rows[-1]["tokens"] == 6 * 32 + 6 * 64
    found = run.state.record.features
    counted = {name: (act.first_step, act.last_step, act.steps, act.tokens) for name, act in found.items()}
    assert counted == {
        "phase until 0.25": (1, 3, 3, 96),
        "phase until 0.5": (4, 6, 3, 96),
        "phase until 1": (7, 12, 6, 384),
        "ema": (1, 12, 12, 576),
    }
    seconds = sum(act.seconds for name, act in found.items() if name != "ema")
    assert seconds == pytest.approx(run.state.spent.seconds)


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_micro_batches_add_up_to_the_batch(tmp_path, micro_batch_size):
    whole, parts = (small_run(tmp_path, micro_batch_size=size, steps=6).train() for size in (None, micro_batch_size))
    for name, value in whole.tensors().items():
        if name.startswith("weights."):
            torch.testing.assert_close(parts.tensors()[name], value, rtol=1e-3, atol=1e-4)


def test_micro_batches_that_do_not_divide_the_batch_are_refused(tmp_path):
    with pytest.raises(UsageError, match="micro_batch_size 3 does not divide the 4 windows"):
        small_run(tmp_path, micro_batch_size=3).prepare()


def test_a_penalty_is_added_where_it_is_due_and_is_not_reported_as_loss(tmp_path):
    plain, rows = [], []
    small_run(tmp_path, steps=3).train(plain.append)
    run = small_run(tmp_path, steps=3)
    asked = []

    def shrink(step):
        asked.append(step)
        return 1e4 * run.state.weights["embedding"].square().mean() if step == 1 else None

    run.gradients = replace(run.gradients, penalties=(shrink,))
    run.train(rows.append)
    assert asked == [0, 1, 2]
    losses = [[row["loss"] for row in each] for each in (plain, rows)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] != losses[1][2]
    assert rows[1]["grad_norm"] > 1.5 * plain[1]["grad_norm"]


def test_a_spike_is_told_and_kept_on_the_record(tmp_path):
    class Shouting(Pattern):
        def batch(self, position, **sizes):
            inputs, targets = super().batch(position, **sizes)
            return (inputs, (7 * inputs + 3) % VOCAB) if position == 50 * 64 else (inputs, targets)

    told = []
    run = small_run(tmp_path, loader=Shouting(), steps=55).train(on_warning=told.append)
    (spike,) = run.state.record.spikes
    assert (spike.step, run.state.record.num_spikes) == (51, 1)
    assert spike.loss > spike.expected + 1
    assert told == [f"step 51: the loss is {spike.loss:.3f}, about {spike.expected:.3f} was usual"]


def test_an_average_too_long_for_the_run_is_told_once(tmp_path):
    told = []
    averages = (EmaConfig(decay=0.99), SwaConfig(start=0.5, every=1))
    small_run(tmp_path, steps=40, averages=averages).train(on_warning=told.append)
    assert [text[:32] for text in told] == ["swa averages over the last 50% o", "ema averages over about 100 step"]


@pytest.mark.parametrize(("last_batch", "share"), [(32, "51%"), (4, None)])
def test_an_average_is_judged_by_the_steps_that_the_run_ends_with(tmp_path, last_batch, share):
    told = []
    phases = (phase(0.1, ONCE, batch_size=1, seq_len=8), phase(1.0, TWICE, batch_size=last_batch))
    budget = BudgetConfig(tokens=10_000)
    small_run(tmp_path, *phases, budget=budget, averages=(EmaConfig(decay=0.9),)).train(on_warning=told.append)
    lag = f"ema averages over about 10 steps, {share} of the run at its last pace; its weights will lag behind"
    assert told == ([lag] if share else [])


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run = two_phases(tmp_path)
    run.state.checkpoint(IDENTITY).write(run.plan.checkpoint_path)
    other = Identity(recipe_digest="r", data_digest="other", seed=0, compute_dtype="fp32")
    with pytest.raises(RunError, match="belongs to another run, its data_digest is d, this run's is other"):
        Checkpoint.read(run.plan.checkpoint_path, other)


def test_a_checkpoint_of_another_precision_is_refused(tmp_path):
    run = two_phases(tmp_path)
    run.state.checkpoint(IDENTITY).write(run.plan.checkpoint_path)
    other = Identity(recipe_digest="r", data_digest="d", seed=0, compute_dtype="bf16")
    with pytest.raises(RunError, match="was computed in fp32, and here it would go on in bf16; continue it on"):
        Checkpoint.read(run.plan.checkpoint_path, other)


def test_a_checkpoint_carries_its_conditions_and_every_change_of_them(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    seen = []
    for steps, conditions in ((3, {"threads": "2"}), (5, {"threads": "2"}), (8, {"threads": "1", "torch": "3"})):
        state = two_phases(tmp_path).state
        state.conditions = Conditions(conditions)
        if path.exists():
            seen.append(state.restore(Checkpoint.read(path, IDENTITY)))
        state.spent.steps = steps
        state.checkpoint(IDENTITY).write(path)
    changes = (Change(5, "threads", "2", "1"), Change(5, "torch", "unknown", "3"))
    assert seen == [(), changes]
    assert Checkpoint.read(path, IDENTITY).conditions == Conditions({"threads": "1", "torch": "3"}, changes)
    state = two_phases(tmp_path).state
    state.conditions = Conditions({"threads": "4"})
    assert [change.after_step for change in state.restore(Checkpoint.read(path, IDENTITY))] == [8, 8]
    assert state.conditions.changes[:2] == changes


def test_a_missing_or_damaged_checkpoint_is_named(tmp_path):
    run = two_phases(tmp_path)
    path, state = run.plan.checkpoint_path, run.state
    with pytest.raises(RunError, match="there is no such file"):
        Checkpoint.read(path, IDENTITY)
    state.checkpoint(IDENTITY).write(path)
    content = path.read_bytes()
    for damaged in (content[:100], content[: len(content) // 2], b"", b"\xff" * 200):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="damaged or not a safetensors file"):
            Checkpoint.read(path, IDENTITY)


def test_spent_survives_the_checkpoint(tmp_path):
    run = two_phases(tmp_path)
    run.state.spent = Spent(steps=3, tokens=192, seconds=1.5)
    run.state.checkpoint(IDENTITY).write(run.plan.checkpoint_path)
    assert Checkpoint.read(run.plan.checkpoint_path, IDENTITY).spent == Spent(steps=3, tokens=192, seconds=1.5)


def test_a_penalty_does_not_move_what_the_schedule_does_not_reach(tmp_path):
    def shrink(step):
        return 1e-9 * sum(value.square().sum() for value in run.state.weights.values())

    run = small_run(tmp_path, phase(0.5, "0-1"), phase(1.0, ONCE), penalties=(shrink,))
    reached = {name: value.clone() for name, value in run.state.weights.items()}
    moved_at = {}

    def note(row):
        for name, value in run.state.weights.items():
            if not torch.equal(value, reached[name]):
                moved_at.setdefault(name, row["step"])

    run.train(note)
    behind = {name: step for name, step in moved_at.items() if name.startswith(("blocks.2.", "blocks.3."))}
    assert behind
    assert min(behind.values()) == 7
    assert min(moved_at.values()) == 1


def test_a_mean_begins_with_the_step_that_spends_its_start(tmp_path):
    run = small_run(tmp_path, steps=12, averages=(SwaConfig(start=0.5, every=2),)).train()
    swa = run.state.record.features["swa"]
    assert (swa.first_step, swa.last_step, swa.steps) == (6, 12, 4)


@pytest.fixture
def slow_disk(monkeypatch):
    """Checkpoints that take 0.4 s; gives the list of what was written."""
    written = []

    def write(self, path):
        time.sleep(0.4)
        written.append(self.spent.steps)

    monkeypatch.setattr(Checkpoint, "write", write)
    return written


def test_no_checkpoint_near_the_end_overshoots_a_budget_of_seconds(tmp_path, slow_disk):
    run = small_run(tmp_path, budget=BudgetConfig(seconds=1.5), checkpoint_seconds=0.6).train()
    assert len(slow_disk) == 2  # at 0.6 s, which takes it to 1.0, and after the end; not at 1.2
    assert run.state.spent.seconds < 1.6


def test_a_checkpoint_is_no_steps_time_and_the_last_step_has_one(tmp_path, slow_disk):
    rows = []
    run = small_run(tmp_path, steps=3, checkpoint_seconds=1e-9).train(rows.append)
    assert slow_disk == [1, 2, 3]
    assert max(row["ms_per_step"] for row in rows) < 300
    assert run.state.record.step_seconds.value < 0.3
    assert run.state.spent.seconds > 0.8  # it is the budget's


def test_what_whoever_watches_does_between_steps_is_no_training(tmp_path):
    class Slow(Stages):
        def begin(self, phase, schedule):
            time.sleep(0.2)

        def end(self):
            time.sleep(0.2)

    run = small_run(tmp_path, steps=2)
    run.gradients = replace(run.gradients, stages=Slow())
    run.train()
    assert run.state.spent.seconds < 0.2
    assert run.state.record.step_seconds.value < 0.2


def test_quantization_between_steps_is_on_the_record_only_where_it_acted(tmp_path):
    run = small_run(tmp_path, phase(1.0, TWICE, quantized=True), steps=6)
    run.gradients.losses[True] = run.gradients.losses[False]
    run.state.after_step = lambda step: step == 3
    acted = run.train().state.record.features["qat"]
    assert (acted.first_step, acted.last_step, acted.steps) == (4, 4, 1)


def test_a_loss_that_is_not_finite_is_told_with_a_weight_before_a_penalty_fails_on_it(tmp_path):
    def fail(step):
        raise AssertionError

    run = small_run(tmp_path, penalties=(fail,))
    with torch.no_grad():
        run.state.weights["embedding"].fill_(math.nan)
    with pytest.raises(RunError, match="step 1: the loss is nan, weight 'embedding' is not finite"):
        run.train()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run = small_run(tmp_path, steps=1)
    step = run.state.optimizers.step

    def spoil(progress):
        rates = step(progress)
        with torch.no_grad():
            run.state.weights["embedding"][0, 0] = math.inf
        return rates

    run.state.optimizers.step = spoil
    with pytest.raises(RunError, match=r"step 1: weight 'embedding' is not finite.*nothing was saved"):
        run.train()
    assert not run.plan.checkpoint_path.exists()


def test_a_weight_decay_that_begins_late_is_on_the_record_from_there(tmp_path):
    decay = ((0.0, 0.0), (0.5, 0.0), (1.0, 0.1))
    run = small_run(tmp_path, steps=6, optim={"matrix_weight_decay": decay})
    acted = run.train().state.record.features
    assert (acted["matrix_weight_decay"].first_step, acted["matrix_weight_decay"].last_step) == (5, 6)
    assert "scalar_weight_decay" not in acted
