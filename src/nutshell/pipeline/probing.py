"""The diagnostics of an artifact: one batch of validation text, forward and backward."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Int64

from nutshell.errors import UsageError
from nutshell.files import sha256_bytes
from nutshell.machine import num_threads
from nutshell.model.probes.measure import probe
from nutshell.model.probes.trace import eager_twin
from nutshell.pipeline import store
from nutshell.train.probing import PROBE_TOKENS


def probe_artifact(artifact: Path, data_dir: Path, *, schedule: str | None, jacobian_steps: int) -> dict[str, Any]:
    """Probe the packed weights on the first windows of the validation text, read as one stream.

    Args:
        artifact: the .nut file.
        data_dir: a data set of its tokenizer.
        schedule: run the blocks in this order instead of the trained one.
        jacobian_steps: of the power iteration for each visit's `jacobian_norm`; 0 leaves it out.

    Raises:
        RecipeError: the artifact's model cannot run the schedule.
        UsageError: a negative number of steps.
    """
    if jacobian_steps < 0:
        raise UsageError(f"probe: --jacobian-steps {jacobian_steps} must not be negative")
    torch.set_num_threads(num_threads())
    content, trained = store.open_artifact(artifact)
    dataset, documents = store.open_documents(data_dir, trained)
    loaded = trained if schedule is None else trained.under(schedule)
    track = documents.stream()
    inputs, targets = (_windows(tokens, loaded.context) for tokens in (track.inputs, track.targets))
    twin = eager_twin(loaded.model, [trained.schedule])
    reading = probe(twin, loaded.schedule, inputs, targets, jacobian_steps=jacobian_steps)
    return {
        **msgspec.json.decode(msgspec.json.encode(reading)),  # what is not finite becomes None
        "trained_schedule": trained.schedule.text,
        "artifact_sha256": sha256_bytes(content),
        "data_digest": dataset.digest,
    }


def _windows(tokens: Int64[np.ndarray, " N"], context: int) -> torch.Tensor:
    """Cut the first whole windows, up to PROBE_TOKENS; a text shorter than a window is one by itself."""
    length = min(context, len(tokens))
    count = max(1, min(PROBE_TOKENS // length, len(tokens) // length))
    return torch.from_numpy(tokens[: count * length].astype(np.int64)).view(count, length)
