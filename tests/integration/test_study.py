"""A study whose runner is killed and started again gives what it gives when left alone, and its report says so."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nutshell.files import read_json
from tiny_text import write_tiny

RECIPE = """
[train]
batch_size = 4
seq_len = 32
compile = "never"
budget = { steps = 3 }
[pack]
budget_bytes = 60_000
rules = [{ kind = "rtn", roles = ["matrix", "embedding"] }]
[score]
stride = 16
"""
STUDY = """
about = "a test"
base = "small.toml"
seeds = [0, 1]
budgets = [{ steps = 8 }]
measures = ["trained", "disjoint", "bytes", "rolling"]
[limits]
threads = 1
[arms.flat]
hypothesis = "repeating pays"
published = 0.01
set.model.depth.schedule = "0-2"
[arms.coarse]
hypothesis = "fewer bits cost"
set.pack.rules = [{ kind = "rtn", roles = ["matrix", "embedding"], grid = { kind = "absmax", bits = 3 } }]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("study"), RECIPE)
    (folder / "study.toml").write_text(STUDY)
    return folder


def start(folder, *arguments, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "nutshell", "study", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def finish(process):
    out, err = process.communicate(timeout=250)
    assert process.returncode == 0, err
    return out, err


def run(folder, out):
    process = start(folder, "run", "study.toml", "--data", "data", "--out", out, "--json", "--store", f"{out}.json")
    return json.loads(finish(process)[0])


def measures(analysis):
    return {(row["arm"], row["seeds"]): row["means"] for row in analysis["summaries"]}


def test_killed_and_resumed(folder):
    wanted = run(folder, "whole")
    assert (wanted["done"], wanted["trials"]) == (6, 6)
    assert len(list(folder.glob("whole/trainings/*/run.json"))) == 4  # `coarse` is `base`, packed otherwise
    of = measures(wanted)
    assert of["coarse", 2]["trained"] == of["base", 2]["trained"]
    assert of["coarse", 2]["disjoint"] != of["base", 2]["disjoint"]

    process = start(folder, "run", "study.toml", "--data", "data", "--out", "killed", start_new_session=True)
    while not list(folder.glob("killed/*/outcome.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # the runner alone: its trials have sessions of their own
    process.communicate()
    first = {path: path.read_bytes() for path in folder.glob("killed/*/outcome.json")}
    found = run(folder, "killed")
    assert measures(found) == measures(wanted)
    assert all(path.read_bytes() == content for path, content in first.items())
    comparison, _ = found["comparisons"]
    assert comparison["effect"]["mean"] == wanted["comparisons"][0]["effect"]["mean"]
    assert comparison["others"].keys() == {"trained", "bytes", "rolling", "gap"}
    assert comparison["published"] == 0.01

    report = ("report", "study.toml", "--html", "study.html", "--markdown", "study.md", "--json")
    stored = finish(start(folder, *report, "--stored", "killed.json"))[0]
    assert json.loads(stored) == found
    assert "<svg" in (folder / "study.html").read_text()
    value = found["summaries"][0]["means"]["disjoint"]
    assert f"{value:.5f}" in (folder / "study.md").read_text()

    # What was stored is done elsewhere, too: nothing runs.
    new = ("run", "study.toml", "--data", "data", "--out", "new", "--store", "killed.json", "--json")
    again = json.loads(finish(start(folder, *new))[0])
    assert measures(again) == measures(found)
    assert not list(folder.glob("new/*/run"))


def test_a_trial_that_breaks_leaves_its_last_words(folder):
    """A budget of bytes that nothing fits in: packing fails, and the other arm is measured all the same."""
    (folder / "broken.toml").write_text(
        STUDY.replace("seeds = [0, 1]", "seeds = [0]") + "[arms.tiny]\nset.pack.budget_bytes = 100\n"
    )
    process = start(folder, "run", "broken.toml", "--data", "data", "--out", "broken")
    out, err = process.communicate(timeout=250)
    assert process.returncode == 1
    assert "1 of 4 trials failed, the first in broken/tiny-8steps-seed0-" in err.splitlines()[-1]
    assert "1, 1 failed" in out or "0, 1 failed" in out
    (failure,) = folder.glob("broken/*/failure.json")
    assert "over the budget of 100 B" in read_json(failure)["said"]
    assert len(list(folder.glob("broken/*/outcome.json"))) == 3


def test_a_runner_that_is_asked_to_stop_stops_its_trials(folder):
    (folder / "long.toml").write_text(STUDY.replace("steps = 8", "steps = 100_000"))
    process = start(folder, "run", "long.toml", "--data", "data", "--out", "long")
    while not list(folder.glob("long/trainings/*/metrics.jsonl")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "nutshell: stopped; the same command goes on"
    assert list(folder.glob("long/trainings/*/checkpoint.safetensors"))
    assert not list(folder.glob("long/*/failure.json"))
    sizes = [path.stat().st_size for path in folder.glob("long/trainings/*/metrics.jsonl")]
    time.sleep(1)
    assert [path.stat().st_size for path in folder.glob("long/trainings/*/metrics.jsonl")] == sizes
