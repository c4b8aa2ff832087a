"""What the receipt adds up, over the sessions of a run that was stopped and resumed, and over one session's time."""

import signal
import time

import pytest

from nutshell.data.dataset import Dataset
from nutshell.errors import RunError
from nutshell.files import read_json
from nutshell.pipeline import training as training_module
from nutshell.pipeline.training import Told, Training
from nutshell.recipe import resolve
from nutshell.train import interrupts
from nutshell.train.clock import Laps
from nutshell.train.interrupts import Interrupted
from tiny_text import write_tiny

RECIPE = """
[train]
batch_size = 4
seq_len = 32
compute_dtype = "fp32"
compile = "never"
budget = { steps = 8 }
[pack]
budget_bytes = 60_000
rules = [{ kind = "rtn", roles = ["matrix", "embedding"] }]
[score]
stride = 16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("receipt"), RECIPE)


@pytest.fixture
def training(folder, tmp_path, monkeypatch):
    """Make what trains into `out`, as a process of its own would."""
    monkeypatch.setattr(interrupts, "ONE_REQUEST_SECONDS", 0.0)

    def make():
        laps = Laps()
        return Training(
            resolve(str(folder / "small.toml")), Dataset.open(folder / "data"), tmp_path / "out", seed=0, laps=laps
        )

    return make


def stop_at(step):
    return Told(row=lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == step else None)


def test_the_receipt_of_a_resumed_run_is_that_of_all_its_sessions(training, monkeypatch):
    counts = iter(range(1000))
    monkeypatch.setattr(training_module, "num_compiled", lambda: next(counts))  # one more graph at each look
    for step in (3, 5):
        with pytest.raises(Interrupted):
            training().run(resume=step == 5, told=stop_at(step))
    receipt = training().run(resume=True, told=Told())
    sessions = receipt["sessions"]
    assert [session["after_step"] for session in sessions] == [0, 3, 5]
    assert [session["recompiled"] for session in sessions] == [3, 2, 3]
    assert receipt["recompiled"] == 8
    for name in ("check", "kernels", "set_up", "compile"):
        each = [session["seconds"][name] for session in sessions]
        assert min(each) > 0
        assert receipt["seconds"][name] == pytest.approx(sum(each))
    for session in sessions:
        assert list(session["reads"]) == ["check", "set_up", "train"]
        assert session["reads"]["check"]["val"] > 0
        assert session["reads"]["train"]["train"] > 0
        assert session["reads"]["set_up"]["val"] == session["reads"]["train"]["val"] == 0
    for name, peak in receipt["peak_memory_bytes"].items():
        assert peak == max(session["peak_memory_bytes"][name] for session in sessions)
    # A checkpoint cannot tell of itself: the two of the stopped sessions are missing.
    assert receipt["checkpoints"]["written"] == 1


def test_the_seconds_of_a_receipt_leave_no_time_out(training):
    start = time.perf_counter()
    made = training()
    receipt = made.run(resume=False, told=Told(prepared=lambda _: time.sleep(0.3)))
    took = time.perf_counter() - start
    assert list(receipt["seconds"]) == ["check", "kernels", "set_up", "compile", "train", "write"]
    assert receipt["seconds"]["set_up"] > 0.3
    assert 0.95 * took - 0.05 < sum(receipt["seconds"].values()) <= took
    assert 0 < receipt["checkpoints"]["seconds"] < receipt["seconds"]["write"]


@pytest.mark.parametrize("end", [Interrupted, RunError])
def test_a_profile_is_written_of_a_run_that_does_not_reach_its_end(training, tmp_path, end):
    def stop(row):
        if row["step"] == 4:
            if end is RunError:
                raise RunError("the loss is nan")
            signal.raise_signal(signal.SIGINT)

    made = training()
    with pytest.raises(end):
        made.run(resume=False, told=Told(row=stop), profiler=made.profiler())
    (phase,) = read_json(tmp_path / "out/profile.json")["phases"]
    # The third step is the first recorded one; the one that failed did not end.
    assert phase["steps"] == (2 if end is Interrupted else 1)
    per_step = {row["name"]: row["calls"] for row in phase["operators"] if row["stage"] == "optimizer"}
    assert per_step
    assert all(calls == int(calls) for calls in per_step.values())
    assert phase["stages"]["data"]["seconds"] < phase["seconds_per_step"]
    assert sum(stage["seconds"] for stage in phase["stages"].values()) <= phase["seconds_per_step"]
