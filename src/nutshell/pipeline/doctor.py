"""What this machine has, which paths a training would take on it, what is missing and how to get it."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from nutshell.machine import bf16_extension, num_threads, processor, versions
from nutshell.model.accounting import count_params
from nutshell.recipe import Recipe, Resolved
from nutshell.train.compute import Compute, has_compiler

# fp32 bytes of a weight, its gradient, and a momentum; AdamW, where it is used, has one more.
_BYTES_A_WEIGHT, _BYTES_AN_AVERAGE = 16, 4
_EXTRAS = (
    ("huggingface_hub", "hub", "nutshell data fetch cannot bring published data"),
    ("scipy", "study", "nutshell study and compare cannot compute"),
)
_FREE_DISK_BYTES = 1_000_000_000


def examine(resolved: Resolved) -> dict[str, Any]:
    """Say what there is, what a training of a recipe would use, and what is missing.

    `ok` is false where something needed is broken: too little memory or disk.
    """
    compute = Compute.choose(resolved.recipe.train, resolved.recipe.model)
    machine = _machine()
    needed = state_bytes(resolved.recipe)
    available = machine["gpus"][0]["memory_bytes"] if machine["gpus"] else machine["memory_bytes"]
    missing = [*_broken(machine, needed, available), *_missing(compute)]
    paths = compute.facts() | {
        "device": str(compute.device),
        "loss": "in pieces, with its gradient",
        "threads": num_threads(),
    }
    return {
        "ok": not any(row["needed"] for row in missing),
        "recipe": resolved.name,
        "machine": machine,
        "versions": versions(),
        "paths": {**paths, **compute.timings()},
        "state_bytes": needed,
        "missing": missing,
    }


def state_bytes(recipe: Recipe) -> int:
    """Count what weights, gradients, optimizers and averages take at most, in fp32; activations come on top."""
    number = count_params(recipe.model, recipe.schedules)
    return number * (_BYTES_A_WEIGHT + _BYTES_AN_AVERAGE * len(recipe.train.averages))


def _machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "bf16": bf16_extension(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "compiler": next((name for name in ("g++", "clang++") if shutil.which(name)), None),
    }


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count()))
    return [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in found]


def _memory_bytes() -> int | None:
    """Give the machine's memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _broken(machine: dict[str, Any], needed: int, available: int | None) -> list[dict[str, Any]]:
    """List what keeps a training from running at all."""
    found = []
    if available is not None and needed > available:
        found.append(_row("memory", f"the training state takes {needed:,} bytes of {available:,}", "a smaller recipe"))
    if machine["free_disk_bytes"] < _FREE_DISK_BYTES:
        found.append(_row("disk", f"{machine['free_disk_bytes']:,} bytes are free here", "free 1 GB for a run"))
    return found


def _missing(compute: Compute) -> list[dict[str, Any]]:
    """List what would be faster, or do more, with something installed."""
    found = []
    on_gpu = compute.device.type == "cuda"
    if not has_compiler(compute.device):
        remedy = "install triton, which torch's CUDA builds bring" if on_gpu else "install g++ or clang++"
        found.append(_row("compiler", "training runs eager, several times slower", remedy, needed=False))
    if compute.precision == "fp32" and not on_gpu:
        says = "the processor has no bf16 instructions: training computes in fp32"
        found.append(_row("bf16", says, "none on this machine", needed=False))
    for library, extra, says in _EXTRAS:
        if importlib.util.find_spec(library) is None:
            found.append(_row(library, says, f"pip install nutshell-lm[{extra}]", needed=False))
    is_hopper = on_gpu and torch.cuda.get_device_capability(compute.device) == (9, 0)
    if is_hopper and importlib.util.find_spec("flash_attn_interface") is None:
        says = "attention runs on torch's own kernels"
        found.append(_row("FlashAttention 3", says, "build flash_attn_interface for this torch", needed=False))
    return found


def _row(what: str, says: str, remedy: str, *, needed: bool = True) -> dict[str, Any]:
    return {"what": what, "says": says, "remedy": remedy, "needed": needed}
