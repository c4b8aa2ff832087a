"""benchmarks/gpu.py at tiny sizes on a CPU: every part runs and is right, and a wrong or slow one is noticed."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

_spec = importlib.util.spec_from_file_location("gpu_benchmark", Path(__file__).parents[2] / "benchmarks" / "gpu.py")
gpu = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(gpu)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored_torch(monkeypatch):
    monkeypatch.setattr(gpu, "choose_device", lambda: CPU)
    yield
    torch.compiler.set_stance("default")
    torch.use_deterministic_algorithms(mode=False)


def test_every_part_runs_at_tiny_sizes(tmp_path):
    assert gpu.main(["--tiny", "--out", str(tmp_path), "--peak-tflops", "2"]) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert (report["failed"], report["skipped"]) == ([], [])
    parts = report["parts"]
    speeds = [part for part in parts.values() if "tokens_per_second" in part]
    assert {name.split()[0] for name, part in parts.items() if part in speeds} == set(gpu.RECIPES)
    assert len(speeds) == 5
    for part in speeds:
        assert part["tokens_per_second"] * part["step_seconds"] == pytest.approx(part["tokens_per_step"])
        flops = part["flops_per_token"] * part["tokens_per_second"]
        assert part["model_flop_utilisation"] == pytest.approx(flops / 2e12)
        assert part["peak_memory_bytes"] > 0
    assert {"loss", "backward", "optimizer"} <= parts["profile"]["stages"].keys()
    assert parts["profile"]["operators"]


def part(name, kind="check", **found):
    return gpu.Part(name, kind, lambda: found)


def broken():
    raise RuntimeError("out of memory")


def test_what_fails_is_told_and_the_others_have_their_turn(tmp_path):
    parts = [gpu.Part("a", "check", broken), part("b", ok=False, errors={"x": 1.0}), part("c", ok=True, errors={})]
    assert gpu.run_parts(parts, {"tiny": True}, tmp_path / "gpu.json", seconds=99) == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["failed"] == ["a", "b"]
    assert report["parts"]["a"]["error"] == "RuntimeError: out of memory"
    assert report["parts"]["c"]["ok"] is True


def test_what_does_not_fit_in_the_time_is_skipped(tmp_path):
    parts = [part("fits", ok=True, errors={}), part("does not", "speed", ok=True, errors={})]
    assert gpu.run_parts(parts, {"tiny": False}, tmp_path / "gpu.json", seconds=30) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert (list(report["parts"]), report["skipped"]) == (["fits"], ["does not"])


@pytest.mark.parametrize("name", ["attention", "muon", "loss"])
def test_a_wrong_path_is_noticed(monkeypatch, name):
    work = gpu.TINY_SIZES.attention
    if name == "attention":
        right = gpu.attend
        monkeypatch.setattr(gpu, "attend", lambda q, *rest: right(1.01 * q, *rest))
        found = gpu.check_attention(work, CPU)
    elif name == "muon":
        right = gpu.Optimizers.step
        monkeypatch.setattr(gpu.Optimizers, "step", lambda self, progress: right(self, 0.9))
        found = gpu.check_muon((2, 16, 8), CPU)
    else:
        right = gpu.TrainingLoss.__call__
        monkeypatch.setattr(gpu.TrainingLoss, "__call__", lambda self, x, y, schedule: right(self, x, x, schedule))
        found = gpu.check_chunks(gpu._share("baseline", gpu.TINY_SIZES), 2)
    assert found["ok"] is False


def test_a_machine_without_a_gpu_is_told_about_tiny(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert "--tiny" in capsys.readouterr().err


def test_the_published_batch_is_shared_by_eight():
    shares = {name: gpu._share(name, gpu.Sizes()).train for name in gpu.RECIPES}
    assert [(train.batch_size, train.seq_len) for train in shares.values()] == [(48, 2048), (64, 1024), (48, 2048)]


def test_plain_attention_is_the_mean_of_the_values_where_all_keys_are_equal():
    ones = torch.ones(1, 4, 2, 8, dtype=torch.float64)
    values = torch.arange(4.0, dtype=torch.float64).view(1, 4, 1, 1).expand(1, 4, 1, 8)
    found = gpu._attend_plainly(ones, ones[:, :, :1], values, None)
    assert math.isclose(found[0, 3, 0, 0], 1.5)
    assert math.isclose(found[0, 1, 1, 0], 0.5)
