"""Training that was stopped and resumed in another process ends bitwise equal where blocks and loss are compiled."""

import json
import shutil
import subprocess
import sys

import pytest

from nutshell.files import read_json

STEPS, STOP = 12, 5  # the schedule changes after step 6, so the resumed run crosses the change
RECIPE = f"""
about = "a test"
[model]
vocab_size = 300
model_dim = 32
attention = {{ num_heads = 2, num_kv_heads = 1 }}
inputs = [{{ kind = "embed_norm" }}]
logits = [{{ kind = "softcap" }}]
mlp = {{ kind = "relu2", mlp_dim = 64 }}
residual = {{ kind = "sequential", entry = [{{ kind = "x0_mix" }}] }}
depth = {{ schedule = "0 (1)x2" }}
[train]
batch_size = 4
seq_len = 32
averages = [{{ kind = "ema", decay = 0.9 }}]
phases = [{{ until = 0.5, schedule = "0-1" }}]
budget = {{ steps = {STEPS} }}
[pack]
budget_bytes = 30_000
rules = [{{ kind = "rtn", roles = ["matrix", "embedding"] }}]
[score]
stride = 16
"""
NUTSHELL = "import sys; from nutshell.cli import main; sys.argv = ['nutshell', *sys.argv[1:]]; main()"
STOPPED = f"""
import os, signal
from nutshell.pipeline.training import MetricsLog
write = MetricsLog.write
def write_and_stop(log, row):
    if row["step"] == {STOP}:
        os.kill(os.getpid(), signal.SIGINT)
    return write(log, row)
MetricsLog.write = write_and_stop
{NUTSHELL}
"""

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="nothing is compiled here")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train in a process of its own, into a folder; give the folder."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "small.toml").write_text(RECIPE)
    lines = [json.dumps({"text": f"number {n} and then {n * n} with {n % 7} more words to count"}) for n in range(400)]
    (folder / "text.jsonl").write_text("\n".join(lines))

    def run(program, *arguments, status=0):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
        assert done.returncode == status, done.stderr

    run(NUTSHELL, "data", "build", "text.jsonl", "--vocab", "300", "--out", "data")

    def train_into(out, *options, program=NUTSHELL, status=0):
        run(program, "train", "small.toml", "--data", "data", "--out", out, *options, status=status)
        return folder / out

    return train_into


def rows_of(run_dir):
    """What each step computed, and nothing of how long it took."""
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"], row["lr"], row["schedule"]) for row in rows]


@pytest.fixture(scope="module")
def whole(train):
    return train("whole")


def test_probes_change_no_weight_of_a_compiled_run(train, whole):
    probed = train("probed", "--set", "train.probe_every=4")
    assert rows_of(probed) == rows_of(whole)
    assert (probed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    rows = [json.loads(line) for line in (probed / "probes.jsonl").read_text().splitlines()]
    assert [(row["step"], row["schedule"]) for row in rows] == [(4, "0-1"), (8, "0 (1)x2"), (12, "0 (1)x2")]
    receipts = [read_json(run_dir / "run.json") for run_dir in (probed, whole)]
    assert [receipt["probes"] for receipt in receipts] == [{"every": 4, "clock": "stopped"}, None]
    spent = ["check", "kernels", "set_up", "compile", "train", "write"]
    assert [list(receipt["seconds"]) for receipt in receipts] == [[*spent[:5], "probe", "write"], spent]
    assert not (whole / "probes.jsonl").exists()


def test_a_compiled_run_ends_bitwise_equal_when_resumed(train, whole):
    stopped = train("stopped", program=STOPPED, status=130)
    assert [step for step, *_ in rows_of(stopped)] == list(range(1, STOP + 1))
    resumed = train("stopped", "--resume")
    for run_dir in (whole, resumed):
        receipt = read_json(run_dir / "run.json")
        assert receipt["compiled"] is True
        peaks = receipt["peak_memory_bytes"]
        assert peaks["train_process"] > 50_000_000
        assert peaks["compile_process_tree"] is None or peaks["compile_process_tree"] > 50_000_000
        assert (receipt["steps"], receipt["changes_on_resume"]) == (STEPS, [])
    assert read_json(whole / "run.json")["sessions"][0]["after_step"] == 0
    assert_adds_up(read_json(resumed / "run.json"), after=[0, STOP])
    assert rows_of(resumed) == rows_of(whole)
    assert (resumed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def assert_adds_up(receipt, after):
    """The receipt of a run is that of all its sessions."""
    sessions = receipt["sessions"]
    assert [session["after_step"] for session in sessions] == after
    for name in ("check", "kernels", "set_up", "compile"):
        each = [session["seconds"][name] for session in sessions]
        assert all(seconds > 0 for seconds in each)
        assert receipt["seconds"][name] == pytest.approx(sum(each))
    assert receipt["recompiled"] == sum(session["recompiled"] for session in sessions) == 0
    for name, peak in receipt["peak_memory_bytes"].items():
        assert peak == max(session["peak_memory_bytes"][name] for session in sessions)
    checkpoints = receipt["checkpoints"]
    assert checkpoints["written"] == sum(session["checkpoints"] for session in sessions)
    assert checkpoints["seconds"] == pytest.approx(sum(session["checkpoint_seconds"] for session in sessions))
