"""What a training leaves in run.json about how it ran: enough to repeat it, and to doubt it."""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from nutshell.machine import code_digest, processor, versions
from nutshell.memory import peak_process_bytes
from nutshell.train.compute import Compute
from nutshell.train.config import TrainConfig
from nutshell.train.state import TrainState


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen of a training from outside its loop.

    Attributes:
        prepare_seconds: what compiling and rehearsing took, before the clock.
        tree_bytes: the most memory that it and its compilers had meanwhile; None where the system does not tell.
        recompiled: graphs compiled after the clock had started.
        ranks: the processes that trained.
        replicas_equal: whether all of them ended with the same weights to the bit.
        skipped: by context length, the share of the text that no window reads.
    """

    prepare_seconds: float
    tree_bytes: int | None
    recompiled: int
    ranks: int
    replicas_equal: bool
    skipped: dict[str, float]


def receipt_of(train: TrainConfig, state: TrainState, compute: Compute, measured: Measured) -> dict[str, Any]:
    """Say what was spent, when each feature acted, the worst moments, and on what it ran."""
    record = msgspec.to_builtins(state.record)
    probe_seconds = {"probe": state.spent.probe_seconds} if train.probe_every else {}
    return {
        "packed": train.packed_name,
        "num_params": state.table.count(),
        "steps": state.spent.steps,
        "tokens": state.spent.tokens,
        "budget": msgspec.to_builtins(train.budget),
        "seconds": {"compile": measured.prepare_seconds, "train": state.spent.seconds, **probe_seconds},
        "features": record["features"],
        "skipped": measured.skipped,
        "worst": {name: record[name] for name in ("grad_norm", "step_seconds", "spikes", "num_spikes")},
        "recompiled": measured.recompiled,
        "peak_memory_bytes": {"compile_process_tree": measured.tree_bytes, "train_process": peak_process_bytes()},
        "ranks": measured.ranks,
        "replicas_equal": measured.replicas_equal,
        "device": str(compute.device),
        "processor": processor(),
        "versions": versions(),
        "code_digest": code_digest(),
        **compute.facts(),
        **compute.timings(),
        "changes_on_resume": msgspec.to_builtins(state.conditions.changes),
        "probes": {"every": train.probe_every, "clock": "stopped"} if train.probe_every else None,
    }


def weights_digest(state: TrainState) -> str:
    """Give the SHA-256 of the weights in training and of every average."""
    found = hashlib.sha256()
    for weights in state.final_weights().values():
        for value in weights.values():
            found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
