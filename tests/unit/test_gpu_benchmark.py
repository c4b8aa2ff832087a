"""benchmarks/gpu.py at tiny sizes on a CPU: every part runs and is right, and a wrong or slow one is noticed."""

import contextlib
import importlib.util
import json
import math
import time
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


def run_parts(*arguments, age=0.0, **options):
    return gpu.run_parts(*arguments, start=time.perf_counter() - age, **options)


def broken():
    raise RuntimeError("out of memory")


def test_what_fails_is_told_and_the_others_have_their_turn(tmp_path):
    parts = [gpu.Part("a", "check", broken), part("b", ok=False, errors={"x": 1.0}), part("c", ok=True, errors={})]
    assert run_parts(parts, {"tiny": True}, tmp_path / "gpu.json", seconds=99) == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["failed"] == ["a", "b"]
    assert report["parts"]["a"]["error"] == "RuntimeError: out of memory"
    assert report["parts"]["c"]["ok"] is True


def test_what_does_not_fit_in_the_time_is_skipped(tmp_path):
    parts = [part("fits", ok=True, errors={}), part("does not", "speed", ok=True, errors={})]
    assert run_parts(parts, {"tiny": False}, tmp_path / "gpu.json", seconds=30) == 0
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert (list(report["parts"]), report["skipped"]) == (["fits"], ["does not"])


def test_the_time_before_the_first_part_counts(tmp_path):
    parts = [part("does not fit", ok=True, errors={})]
    assert run_parts(parts, {"tiny": False}, tmp_path / "gpu.json", seconds=30, age=15) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["skipped"] == ["does not fit"]
    assert 0 < gpu._process_age() < 24 * 3600


def test_a_part_is_begun_only_if_it_may_take_longer_than_the_one_before(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])

    def takes(seconds):
        now[0] += seconds
        return {"ok": True, "errors": {}}

    parts = [gpu.Part(str(number), "speed", lambda: takes(100)) for number in range(3)]
    gpu.run_parts(parts, {"tiny": False}, tmp_path / "gpu.json", seconds=320, start=100.0)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert (list(report["parts"]), report["skipped"]) == (["0", "1"], ["2"])  # 120 s are left, 125 wanted


def test_a_part_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu.LIMITS, "check", 0.1)

    def endless():
        while True:
            with contextlib.suppress(RuntimeError):
                time.sleep(0.01)

    parts = [gpu.Part("endless", "check", endless), part("next", ok=True, errors={})]
    assert run_parts(parts, {"tiny": True}, tmp_path / "gpu.json", seconds=99) == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["parts"]["endless"]["error"] == "OvertimeError: not done in 0 s"
    assert report["parts"]["next"]["ok"] is True


def test_the_profile_comes_before_what_may_be_left_out():
    names = [part.name for part in gpu.all_parts(gpu.TINY_SIZES, CPU, None)]
    assert names.index("profile") == 5
    assert names[4].startswith("sp8192-loop35")
    assert names[6].startswith("sp8192-loop35")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA H200", True),
        ("NVIDIA GH200 480GB", False),
        ("NVIDIA H200 NVL", False),
        ("NVIDIA H100 PCIe", False),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", False),
    ],
)
def test_a_peak_is_that_of_the_whole_name(monkeypatch, name, known):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert gpu._peak(torch.device("cuda", 0), None) == (989.4e12 if known else None)


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
