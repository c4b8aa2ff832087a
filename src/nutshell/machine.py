"""What this machine is: facts that receipts record and that choose between code paths."""

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RECORDED_PACKAGES = (
    "nutshell-lm",
    "torch",
    "numpy",
    "sentencepiece",
    "constriction",
    "brotli",
    "zstandard",
    "safetensors",
)


def versions() -> dict[str, str]:
    """List the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def code_digest() -> str:
    """Give the SHA-256 of the installed code: of every Python file of the package, by path and content."""
    root = Path(__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


@cache
def _cpuinfo() -> dict[str, str]:
    """Read the first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def processor() -> str:
    """Name the processor and what it has for bf16 products."""
    name = _cpuinfo().get("model name") or platform.processor() or platform.machine()
    extension = bf16_extension()
    return f"{name} ({extension})" if extension else name


def bf16_extension() -> str | None:
    """Name the instructions that make bf16 products fast on this processor, or None."""
    flags = set(_cpuinfo().get("flags", "").split())
    return next((flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags), None)


def nvidia_driver() -> str | None:
    """Give the version line of NVIDIA's kernel driver, or None where there is none."""
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return None


def num_threads() -> int:
    """Choose how many threads to compute with: OMP_NUM_THREADS if it is set, else the cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return num_cores()


def num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
