"""A training that is killed at random steps, again and again, ends bit for bit as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from nutshell.files import read_json
from tiny_text import write_tiny

STEPS = 60
RECIPE = f"""
[train]
batch_size = 4
seq_len = 32
compile = "never"
checkpoint_seconds = 0.001
micro_batch_size = 2
averages = [{{ kind = "ema", decay = 0.9 }}, {{ kind = "swa", start = 0.5, every = 3 }}]
phases = [
  {{ until = 0.3, seq_len = 16, qat = false }},
  {{ until = 0.6, schedules = ["0-2", "0 (1)x2 2"] }},
]
qat = {{ kind = "noise", rate_bits = 4.0 }}
penalties = [{{ kind = "rate", weight = 0.001, rate_bits = 4.0, every = 4 }}]
budget = {{ steps = {STEPS} }}
[pack]
budget_bytes = 60_000
rules = [{{ kind = "rtn", roles = ["matrix", "embedding"] }}]
[score]
stride = 16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("killed"), RECIPE)


def start(folder, *arguments):
    command = [sys.executable, "-m", "nutshell", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def train(folder, out, *options):
    process = start(folder, "train", "small.toml", "--data", "data", "--out", out, *options)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return folder / out


def num_rows(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_run_killed_at_random_steps_ends_bitwise_equal(folder):
    whole = train(folder, "whole")
    seed = random.SystemRandom().randrange(10**6)
    print(f"random steps of seed {seed}")
    steps = sorted(random.Random(seed).sample(range(2, STEPS - 10), 3))
    options = []
    for step in steps:
        process = start(folder, "train", "small.toml", "--data", "data", "--out", "killed", *options)
        deadline = time.monotonic() + 100
        while num_rows(folder / "killed") < step and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert process.poll() is None, process.stderr.read()
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        assert not (folder / "killed/run.json").exists(), "the run had ended before it was killed"
        process.stderr.close()
        options = ["--resume"]
    killed = train(folder, "killed", "--resume")
    for name in ("weights", "weights-last", "weights-swa"):
        assert (killed / f"{name}.safetensors").read_bytes() == (whole / f"{name}.safetensors").read_bytes()
    assert computed(killed) == computed(whole)
    receipts = [read_json(run_dir / "run.json") for run_dir in (killed, whole)]
    assert receipts[0]["worst"]["grad_norm"] == receipts[1]["worst"]["grad_norm"]
    ran = [
        {name: (each["first_step"], each["last_step"], each["steps"]) for name, each in receipt["features"].items()}
        for receipt in receipts
    ]
    assert ran[0] == ran[1]


def computed(run_dir):
    """What each step computed, and nothing of how long it took."""
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"], row["lr"], row["schedule"], row["tokens"]) for row in rows]


def test_what_was_scheduled_and_never_acted_is_an_error_at_the_end(folder):
    process = start(folder, "train", "small.toml", "--data", "data", "--out", "never", "--set", "train.budget.steps=2")
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "'phase until 1' was scheduled and never acted in 2 steps; mend the recipe" in said
    assert (folder / "never/weights.safetensors").exists()
    receipt = read_json(folder / "never/run.json")
    assert set(receipt["features"]) == {"phase until 0.3", "phase until 0.6", "ema", "qat"}
