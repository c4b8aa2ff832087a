"""What is chosen to compute a step, by machine and by recipe, and what the receipt says of it."""

import ctypes
import shutil
import subprocess
import sys

import pytest
import torch

from models import model_config
from nutshell.errors import UsageError
from nutshell.memory import keep_freed_memory
from nutshell.nn.kernels.choose import Choice
from nutshell.train import compute as compute_module
from nutshell.train.compute import Compute, choose_device
from nutshell.train.config import BudgetConfig, PhaseConfig, TrainConfig

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")


def settings(**changes):
    return TrainConfig(**{"budget": BudgetConfig(steps=1), "batch_size": 8, "seq_len": 32} | changes)


def chosen(**changes):
    return Compute.choose(settings(**changes), model_config())


@pytest.fixture
def works(monkeypatch):
    """The attention that kernels are chosen for."""
    asked = []

    def choose(wanted, work, device, dtype):
        asked.append(work)
        return Choice("fused", {"fused": 1.0, "flash": None})

    monkeypatch.setattr(compute_module, "choose_attention", choose)
    return asked


@pytest.fixture
def gpu(monkeypatch, works):
    """A GPU, as far as choosing looks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(compute_module, "has_triton", lambda: True)


def test_the_precision_is_what_the_processor_multiplies_unless_the_recipe_says(monkeypatch):
    for extension, expected in (("avx512_bf16", torch.bfloat16), (None, torch.float32)):
        monkeypatch.setattr(compute_module, "bf16_extension", lambda extension=extension: extension)
        assert chosen().dtype == expected
        assert chosen(compute_dtype="fp32").precision == "fp32"
        assert chosen(compute_dtype="bf16").precision == "bf16"


def test_a_cpu_compiles_blocks_where_there_is_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert (chosen().compiled, chosen().scope) == (True, "blocks")
    assert chosen(compile="schedules").scope == "schedules"
    assert not chosen(compile="never").compiled
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not chosen(compile="blocks").compiled


def test_the_kernel_is_chosen_for_the_longest_context_and_the_rows_of_one_forward(works, monkeypatch):
    phases = (PhaseConfig(until=0.5, seq_len=48), PhaseConfig(until=0.7, seq_len=16))
    chosen(phases=phases)
    chosen(micro_batch_size=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    chosen()
    assert [(work.seq_len, work.rows) for work in works] == [(48, 8), (32, 2), (32, 4)]
    assert works[0][2:] == (4, 2, 8, False)


def test_the_recipe_may_name_the_kernel():
    assert chosen(attention="fused").attend_kind == chosen(attention="fused").facts()["attention"] == "fused"
    assert chosen().facts()["attention"] == "products"
    with pytest.raises(UsageError, match="'cudnn' does not run here"):
        chosen(attention="cudnn")


def test_a_process_takes_its_own_gpu_and_compiles_schedules(gpu, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    compute = chosen()
    assert compute.device == choose_device() == torch.device("cuda", 3)
    assert (compute.dtype, compute.scope, compute.compiled) == (torch.float32, "schedules", True)
    assert compute.facts()["attention"] == "fused"
    assert compute.timings() == {"attention_ms": {"fused": 1.0, "flash": None}}


def test_facts_say_what_was_chosen_and_nothing_that_varies():
    assert chosen(compile="never").facts() == {
        "compute_dtype": chosen().precision,
        "attention": "products",
        "compiled": False,
        "compiled_scope": None,
        "threads": torch.get_num_threads(),
    }
    assert chosen().timings() == {}


def test_a_process_is_set_up_to_repeat_itself_on_as_many_threads_as_it_may_use():
    code = (
        "import torch; from nutshell.train.compute import Compute\n"
        "Compute(torch.float32, 'fused', compiled=False).set_up()\n"
        "print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),"
        " torch.get_float32_matmul_precision())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"OMP_NUM_THREADS": "3"})
    assert done.stdout.split() == ["3", "True", "highest"], done.stderr


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_memory_that_is_kept_is_not_mapped_anew():
    code = (
        "import resource, torch; from nutshell.memory import keep_freed_memory\n"
        "def step():\n"
        "    kept = [torch.ones(2**24), torch.ones(2**22)]\n"
        "    for _ in range(3): kept.append(torch.ones(2**23) + torch.ones(2**23))\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(4): step()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(); print(faults(), keep_freed_memory(), [faults() for _ in range(4)][-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    before, kept, after = done.stdout.split()
    assert int(before) > 4 * 2**26 // 2**21  # each step clears pages, if huge ones
    assert (kept, int(after) < int(before) / 10) == ("True", True), done.stdout


def test_a_c_library_without_the_switch_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
