"""What a training leaves in run.json about how it ran: enough to repeat it, and to doubt it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from nutshell.machine import code_digest, nvidia_driver, processor, versions
from nutshell.memory import peak_process_bytes
from nutshell.train.compute import Compute
from nutshell.train.config import TrainConfig
from nutshell.train.state import TrainState

# What a session's time goes into once the training's clock has stopped.
AFTER_TRAINING = ("profile", "write")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen of a training from outside its loop.

    Attributes:
        ranks: the processes that trained.
        replicas_equal: whether all of them ended with the same weights to the bit.
        skipped: by context length, the share of the text that no window reads.
    """

    ranks: int
    replicas_equal: bool
    skipped: dict[str, float]


def receipt_of(train: TrainConfig, state: TrainState, compute: Compute, measured: Measured) -> dict[str, Any]:
    """Say what was spent, when each feature acted, the worst moments, and on what it ran."""
    record, sessions = msgspec.to_builtins(state.record), state.record.sessions
    return {
        "packed": train.packed_name,
        "num_params": state.table.count(),
        "steps": state.spent.steps,
        "tokens": state.spent.tokens,
        "budget": msgspec.to_builtins(train.budget),
        "seconds": _seconds(train, state),
        "checkpoints": {
            "written": sum(session.checkpoints for session in sessions),
            "seconds": sum(session.checkpoint_seconds for session in sessions),
            "clock": "counted",
        },
        "features": record["features"],
        "skipped": measured.skipped,
        "worst": {name: record[name] for name in ("grad_norm", "step_seconds", "spikes", "num_spikes")},
        "recompiled": sum(session.recompiled for session in sessions),
        "peak_memory_bytes": _largest([session.peak_memory_bytes for session in sessions]),
        "sessions": record["sessions"],
        "ranks": measured.ranks,
        "replicas_equal": measured.replicas_equal,
        "device": str(compute.device),
        "gpu": gpu_facts(compute.device),
        "processor": processor(),
        "versions": versions(),
        "code_digest": code_digest(),
        **compute.facts(),
        **compute.timings(),
        "changes_on_resume": msgspec.to_builtins(state.conditions.changes),
        "probes": {"every": train.probe_every, "clock": "stopped"} if train.probe_every else None,
    }


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Say how much memory this process has had at its peak, and of its GPU's where it has one."""
    on_gpu = {"train_gpu": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
    return {"train_process": peak_process_bytes(), **on_gpu}


def gpu_facts(device: torch.device) -> dict[str, object] | None:
    """Name a GPU and what drives it; None of a CPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "driver": nvidia_driver(),
    }


def _seconds(train: TrainConfig, state: TrainState) -> dict[str, float]:
    """Add up the sessions' time, with that of the training's own clock in its place: before the last piece."""
    names = dict.fromkeys(name for session in state.record.sessions for name in session.seconds)
    summed = {name: sum(session.seconds.get(name, 0.0) for session in state.record.sessions) for name in names}
    after = {name: summed.pop(name) for name in AFTER_TRAINING if name in summed}
    probe = {"probe": state.spent.probe_seconds} if train.probe_every else {}
    return {**summed, "train": state.spent.seconds, **probe, **after}


def _largest(peaks: Sequence[Mapping[str, int | None]]) -> dict[str, int | None]:
    """Give each peak's largest value over the sessions; None where no session knew one."""
    names = dict.fromkeys(name for each in peaks for name in each)
    return {name: max((peak for each in peaks if (peak := each.get(name))), default=None) for name in names}


def weights_digest(state: TrainState) -> str:
    """Give the SHA-256 of the weights in training and of every average."""
    found = hashlib.sha256()
    for weights in state.final_weights().values():
        for value in weights.values():
            found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
