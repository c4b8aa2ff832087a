"""Probes in training: rows at their steps, the same weights, and a clock that stands still."""

import contextlib
import itertools
import json

import numpy as np
import pytest
import torch

from models import ALL_TOGETHER, model_config
from nutshell.config.loader import decode
from nutshell.errors import RecipeError
from nutshell.model.lm import LM
from nutshell.model.probes import measure
from nutshell.pipeline.rows import RowLog
from nutshell.train import clock as clock_module
from nutshell.train import probing as probing_module
from nutshell.train.checkpoint import Checkpoint
from nutshell.train.clock import Spent, WallClock
from nutshell.train.config import TrainConfig
from nutshell.train.phases import Phase
from nutshell.train.probing import PROBE_TOKENS, Probing
from small_training import IDENTITY, ONCE, THRICE, TWICE, Noise, phase, small_run


class Run:
    """A run of 10 steps: flat for 4, then of two or three passes as each step draws."""

    def __init__(self, tmp_path, *, every=3, on_row=None, last_step=0):
        phases = (phase(0.4, ONCE), phase(1.0, THRICE, TWICE))
        self.run = small_run(tmp_path, *phases, loader=Noise(), model=model_config(**ALL_TOGETHER), steps=10)
        self.plan, self.state, self.model = self.run.plan, self.run.state, self.run.state.model
        self.rows = []
        batch, on_row = Noise().batch(0, batch_size=4, seq_len=16), on_row or self.rows.append
        if every:
            self.probing = Probing(every, self.model, self.plan.schedules, batch, on_row, last_step=last_step)
        else:
            self.probing = None

    def train(self, on_step=lambda row: None):
        self.run.train(on_step, probing=self.probing)
        return self

    def tensors(self):
        return self.run.tensors()


def test_rows_stand_at_their_steps_and_after_the_last_for_every_schedule_of_the_phase(tmp_path):
    rows = Run(tmp_path).train().rows
    assert [(row["step"], row["phase"], row["schedule"]) for row in rows] == [
        (3, 0, ONCE),
        *[(step, 1, text) for step in (6, 9, 10) for text in (THRICE, TWICE)],
    ]
    assert [len(row["visits"]) for row in rows[:3]] == [4, 8, 6]


def test_a_last_step_that_is_due_anyway_is_probed_once(tmp_path):
    assert [row["step"] for row in Run(tmp_path, every=5).train().rows] == [5, 5, 10, 10]


def test_probes_change_nothing_in_the_run(tmp_path):
    with_probes, without = (Run(tmp_path, every=every).train() for every in (2, None))
    left, right = with_probes.tensors(), without.tensors()
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
    assert with_probes.rows
    for module in with_probes.model.modules():
        assert not [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks]


def test_a_probe_reads_the_weights_of_its_step(tmp_path):
    run = Run(tmp_path, every=1)
    norms = []

    def note(row):
        weight = run.state.weights["embedding"].detach().double()
        norms.append(weight.square().sum().sqrt().item())

    run.train(note)
    read = {row["step"]: row["parts"]["embedding"]["weight_norm"] for row in run.rows}
    assert list(read.values()) == pytest.approx(norms, rel=1e-12)
    assert len(set(norms)) == 10


@pytest.mark.parametrize("stop_at", [3, 7, 10])
def test_a_resumed_run_has_the_rows_of_a_whole_one(tmp_path, stop_at):
    whole = Run(tmp_path).train().rows

    class KilledError(Exception):
        pass

    path = tmp_path / "probes.jsonl"
    with RowLog(path, num_done=0) as log:
        run = Run(tmp_path, on_row=log.write)

        def kill(row):
            if row["step"] == stop_at:
                run.state.checkpoint(IDENTITY).write(run.plan.checkpoint_path)
            if row["step"] == stop_at + 2:
                raise KilledError

        with contextlib.suppress(KilledError):
            run.train(kill)
    with RowLog(path, num_done=stop_at) as log:
        run = Run(tmp_path, on_row=log.write, last_step=log.last_step)
        run.state.restore(Checkpoint.read(run.plan.checkpoint_path, IDENTITY))
        run.train()
    resumed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [untimed(row) for row in resumed] == [untimed(row) for row in whole]


def untimed(row):
    return {key: value for key, value in row.items() if key != "seconds"}


def test_the_clock_stands_still_while_a_probe_runs(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: float(next(now)))
    clock = WallClock(already=10.0)  # 0
    assert clock.seconds() == 11.0
    took = clock.stop_for(lambda: [next(now) for _ in range(100)])  # from 2 to 103
    assert took == 101.0
    assert clock.seconds() == 12.0 + 1.0  # the call of the clock that began the stop is time too


def test_probes_have_no_part_in_the_seconds_of_training(tmp_path, monkeypatch):
    real, skipped = probing_module.probe, []
    now = itertools.count()
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: float(next(now)))

    def slow(*arguments):
        skipped.append([next(now) for _ in range(1000)])
        return real(*arguments)

    monkeypatch.setattr(probing_module, "probe", slow)
    with_probes, without = (Run(tmp_path, every=every).train().state.spent for every in (2, None))
    assert len(skipped) == 2 + 2 * 3
    assert with_probes.probe_seconds > 1000 * len(skipped)
    assert without.probe_seconds == 0.0
    assert without.seconds < with_probes.seconds < without.seconds + 2 * len(skipped)
    assert with_probes.steps == without.steps


def test_the_batch_is_cut_to_whole_windows(monkeypatch):
    shapes = []

    def note(model, schedule, inputs, targets):
        shapes.append(tuple(inputs.shape))
        return measure.Reading(
            schedule="", tokens=0, loss=0.0, visits=[], repeats=[], retention=None, skips={}, parts={}
        )

    monkeypatch.setattr(probing_module, "probe", note)
    config = model_config()
    model = LM(config, [config.depth.parse()])
    for shape in ((4, 16), (64, 100), (3, PROBE_TOKENS + 1)):
        batch = np.zeros((2, *shape), dtype=np.int64)
        Probing(1, model, [config.depth.parse()], tuple(batch), lambda _: None).read(
            Spent(steps=1), 0, Phase(1.0, (config.depth.parse(),), 1, 1)
        )
    assert shapes == [(4, 16), (PROBE_TOKENS // 100, 100), (1, PROBE_TOKENS + 1)]


def test_spent_survives_the_checkpoint_with_the_seconds_of_probes(tmp_path):
    run = Run(tmp_path)
    run.state.spent = Spent(steps=3, tokens=192, seconds=1.5, probe_seconds=0.25)
    run.state.checkpoint(IDENTITY).write(run.plan.checkpoint_path)
    assert Checkpoint.read(run.plan.checkpoint_path, IDENTITY).spent == run.state.spent


@pytest.mark.parametrize("every", [0, -3])
def test_a_probe_every_no_step_is_refused(every):
    table = {"budget": {"steps": 1}, "batch_size": 1, "seq_len": 1, "probe_every": every}
    with pytest.raises(RecipeError, match=f"probe_every must be positive, got {every}"):
        decode(table, TrainConfig, where="x")
