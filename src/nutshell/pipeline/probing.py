"""The diagnostics of an artifact: one batch of validation text, forward and backward."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Int64

from nutshell.artifact.load import Loaded
from nutshell.errors import UsageError
from nutshell.files import sha256_bytes, sha256_file
from nutshell.machine import num_threads
from nutshell.model.lm import LM
from nutshell.model.probes.drift import drift
from nutshell.model.probes.measure import probe
from nutshell.model.probes.readings import LoopReading
from nutshell.model.probes.stopping import early_stop, loops
from nutshell.model.probes.trace import eager_twin
from nutshell.pipeline import store
from nutshell.pipeline.weights import unpacked_model
from nutshell.train.probing import PROBE_TOKENS


def probe_artifact(
    artifact: Path,
    data_dir: Path,
    *,
    schedule: str | None,
    jacobian_steps: int,
    eps: Sequence[float] = (),
    weights: Path | None = None,
) -> dict[str, Any]:
    """Probe the packed weights on the first windows of the validation text, read as one stream.

    Args:
        artifact: the .nut file.
        data_dir: a data set of its tokenizer.
        schedule: run the blocks in this order instead of the trained one.
        jacobian_steps: of the power iteration for each visit's `jacobian_norm`; 0 leaves it out.
        eps: stop each loop where a pass changes the stream by less, relatively; none leaves it out.
        weights: the run's weights before packing, to compare the streams; none leaves it out.

    Raises:
        RecipeError: the artifact's model cannot run the schedule, or one with fewer passes.
        RunError: the weights cannot be read, or are of another model.
        UsageError: a negative number of steps, a bound that is not positive, or no loop to stop.
    """
    if jacobian_steps < 0:
        raise UsageError(f"probe: --jacobian-steps {jacobian_steps} must not be negative")
    if wrong := [value for value in eps if not value > 0]:
        raise UsageError(f"probe: --early-stop {wrong[0]:g} must be positive")
    torch.set_num_threads(num_threads())
    content, trained = store.open_artifact(artifact)
    dataset, documents = store.open_documents(data_dir, trained)
    loaded = trained if schedule is None else trained.under(schedule)
    track = documents.stream()
    inputs, targets = (_windows(tokens, loaded.context) for tokens in (track.inputs, track.targets))
    twin = eager_twin(loaded.model, [trained.schedule])
    reading = probe(twin, loaded.schedule, inputs, targets, jacobian_steps=jacobian_steps)
    stops = _early_stops(trained, loaded.schedule.text, twin, inputs, targets, eps) if eps else None
    moved = None
    if weights is not None:
        exact = unpacked_model(trained.model.config, trained.schedule, weights)
        moved = _plain(drift(exact, twin, loaded.schedule, inputs, targets))
        moved |= {"weights_sha256": sha256_file(weights)}
    return {
        **_plain(reading),
        "early_stop": _plain(stops),
        "quantization": moved,
        "trained_schedule": trained.schedule.text,
        "artifact_sha256": sha256_bytes(content),
        "data_digest": dataset.digest,
    }


def _plain(reading: Any) -> Any:
    """Turn readings into JSON's own types; what is not finite becomes None."""
    return msgspec.json.decode(msgspec.json.encode(reading))


def _early_stops(
    trained: Loaded, text: str, twin: LM, inputs: torch.Tensor, targets: torch.Tensor, eps: Sequence[float]
) -> list[LoopReading]:
    """Read every loop of a schedule, the others left as they are."""
    found = loops(text)
    if not found:
        raise UsageError(f"probe: --early-stop: '{text}' has no loop; give --schedule with one, written (blocks)xN")
    return [
        early_stop(
            twin,
            loop,
            [trained.under(loop.times(passes)).schedule for passes in range(1, loop.passes + 1)],
            inputs,
            targets,
            eps=eps,
        )
        for loop in found
    ]


def _windows(tokens: Int64[np.ndarray, " N"], context: int) -> torch.Tensor:
    """Cut the first whole windows, up to PROBE_TOKENS; a text shorter than a window is one by itself."""
    length = min(context, len(tokens))
    count = max(1, min(PROBE_TOKENS // length, len(tokens) // length))
    return torch.from_numpy(tokens[: count * length].astype(np.int64)).view(count, length)
