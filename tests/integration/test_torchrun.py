"""Several processes train one model: the same run as one process has, and nothing lost when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nutshell.files import read_json
from nutshell.train.checkpoint import read_tensors
from tiny_text import write_tiny

STEPS = 12
RECIPE = f"""
[train]
batch_size = 8
seq_len = 32
compute_dtype = "fp32"
compile = "never"
averages = [{{ kind = "ema", decay = 0.9 }}]
phases = [{{ until = 0.5, schedule = "0-2" }}]
budget = {{ steps = {STEPS} }}
[optim]
grad_clip = 0.3
[pack]
budget_bytes = 60_000
rules = [{{ kind = "gptq", roles = ["matrix", "embedding"] }}]
calibration = {{ kind = "training", tokens = 20_000 }}
[score]
stride = 16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("ranks"), RECIPE)


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def launcher(ranks):
    """How a user starts that many processes."""
    if ranks == 1:
        return [sys.executable, "-m", "nutshell"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*torchrun, "-m", "nutshell"]


def run(folder, command, *arguments, status=0):
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert (done.returncode == 0) == (status == 0), done.stderr
    return done


def train(folder, out, *options, ranks=1):
    done = run(folder, launcher(ranks), "train", "small.toml", "--data", "data", "--out", out, *options)
    return folder / out, done


def losses(run_dir):
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(folder):
    return train(folder, "alone")[0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_train_what_one_process_trains(folder, alone, ranks):
    together, done = train(folder, f"ranks{ranks}", ranks=ranks)
    assert losses(together) == pytest.approx(losses(alone), rel=2e-4)
    receipt = read_json(together / "run.json")
    assert (receipt["ranks"], receipt["replicas_equal"], receipt["steps"]) == (ranks, True, STEPS)
    assert receipt["tokens"] == read_json(alone / "run.json")["tokens"]
    assert done.stdout.count("trained:") == 1  # one voice
    packed = {}
    for name, run_dir in (("alone", alone), ("together", together)):
        run(folder, launcher(1), "pack", str(run_dir), "--data", "data")
        packed[name] = read_json(run_dir / "pack.json")["artifact_bytes"]
    assert packed["together"] == pytest.approx(packed["alone"], rel=0.02)


def test_ranks_pack_to_the_bytes_of_one_process(folder):
    # Training and packing are two meetings of the same processes.
    done = run(folder, launcher(2), "run", "small.toml", "--data", "data", "--out", "main")
    assert done.stdout.count("bits per byte") == done.stderr.count("pack:") == 1  # one voice
    together = (folder / "main/model.nut").read_bytes()
    (folder / "main/model.nut").unlink()
    run(folder, launcher(1), "pack", "main", "--data", "data")
    assert (folder / "main/model.nut").read_bytes() == together


@pytest.mark.parametrize("strategy", ["sliding,stride=8", "chunked_sgd,chunk_targets=2000", "document_adapters"])
def test_ranks_score_what_one_process_scores(folder, alone, strategy):
    if not (alone / "model.nut").exists():
        run(folder, launcher(1), "pack", "alone", "--data", "data")
    score = ["score", "alone/model.nut", "--data", "data", "--strategy", strategy, "--json"]
    one, two = (json.loads(run(folder, launcher(ranks), *score).stdout) for ranks in (1, 2))
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert (two["tokens"], two["bytes"], two["documents"]) == (one["tokens"], one["bytes"], one["documents"])
    # Gradients of SGD are summed in another order; else the same arithmetic, row by row.
    assert two["total_nats"] == pytest.approx(one["total_nats"], rel=1e-6 if "sgd" in strategy else 1e-9)


def test_a_killed_rank_ends_the_run_with_a_clear_line_and_a_checkpoint(folder):
    stopped = [*launcher(2), "train", "small.toml", "--data", "data", "--out", "stopped"]
    process = subprocess.Popen(
        [*stopped, "--set", "train.checkpoint_seconds=0.001", "--set", "train.budget.steps=100000"],
        cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    checkpoint = folder / "stopped/checkpoint.safetensors"
    wait_for(checkpoint.exists, process)
    victim = children_of(process.pid)[-1]
    os.kill(victim, signal.SIGKILL)
    _, said = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "a process of this training is gone" in said
    assert "continues the run: train --resume, on any number of processes" in " ".join(said.split())
    assert int(json.loads(read_tensors(checkpoint)[1]["spent"])["steps"]) >= 1


def test_a_run_goes_on_with_another_number_of_ranks(folder, alone):
    for first, then in ((2, 1), (1, 2)):
        out = f"from{first}to{then}"
        options = ("--set", "train.checkpoint_seconds=0.001")
        process = subprocess.Popen(
            [*launcher(first), "train", "small.toml", "--data", "data", "--out", out, *options],
            cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        metrics = folder / out / "metrics.jsonl"
        wait_for(lambda path=metrics: path.exists() and len(path.read_bytes().splitlines()) >= 3, process)
        for pid in [*children_of(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        if (folder / out / "run.json").exists():
            pytest.fail("the run had ended before it was killed: make it longer")
        resumed, _ = train(folder, out, "--resume", *options, ranks=then)
        assert losses(resumed) == pytest.approx(losses(alone), rel=2e-4)
        changes = read_json(resumed / "run.json")["changes_on_resume"]
        assert {"condition": "ranks", "before": str(first), "after": str(then)}.items() <= changes[0].items()


def test_a_batch_that_ranks_cannot_share_is_refused_in_one_line(folder):
    arguments = ("train", "small.toml", "--data", "data", "--out", "odd", "--set", "train.batch_size=7")
    done = run(folder, launcher(2), *arguments, status=2)
    assert "nutshell [rank 0]: train: 2 processes cannot share a batch of 7 windows" in done.stderr


def wait_for(condition, process):
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, "it has ended before its time"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children_of(pid):
    """Pids of all descendants."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(grandchild for child in children for grandchild in children_of(child))]
