"""What a trial leaves behind: its measures, and its training as a curve.

The curve is that of the training loss. As long as no text is read twice, each batch is new to the model, so its loss is
as good as one on held-out text; and arms that share a seed read the same batches, so that their curves differ by what
the arms do.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nutshell.errors import RunError

# Points of a curve: each is the mean over its share of the steps.
POINTS = 50


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A training, in equal stretches of steps: bits per byte over each, and where it ended.

    Attributes:
        seconds: The training's clock; that of a step is the typical one of its schedule (its median), so that a machine
            that was busy for a while does not bend the curve.
    """

    steps: tuple[int, ...]
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    bpb: tuple[float, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What came out of one trial.

    Attributes:
        measures: By name.
        visits: Relative error of the stream after each virtual layer, of the packed model, where that was measured.
        train_seconds: On the training's clock.
        trial_seconds: Of the whole trial's last attempt.
    """

    key: str
    study: str
    arm: str
    size: str
    budget: str
    seed: int
    measures: dict[str, float]
    visits: tuple[float, ...] = ()
    num_params: int
    steps: int
    tokens: int
    train_seconds: float
    trial_seconds: float
    curve: Curve
    schedule: str
    data_digest: str
    recipe_digest: str
    processor: str
    versions: dict[str, str]
    code_digest: str


def is_complete(outcome: Outcome, measures: Sequence[str]) -> bool:
    """Say whether all that is wanted of a trial was measured; a study may come to want more."""
    return set(measures) <= outcome.measures.keys()


def curve_of(metrics: Path) -> Curve:
    """Summarise the rows that a training has logged, one a step."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    typical = _typical_seconds(rows)
    clock = np.cumsum([typical[row["schedule"], row["batch_tokens"]] for row in rows])
    parts = [part for part in np.array_split(np.arange(len(rows)), POINTS) if len(part)]
    return Curve(
        steps=tuple(rows[part[-1]]["step"] for part in parts),
        tokens=tuple(rows[part[-1]]["tokens"] for part in parts),
        seconds=tuple(round(float(clock[part[-1]]), 3) for part in parts),
        bpb=tuple(round(float(np.mean([rows[place]["bpb"] for place in part])), 6) for part in parts),
    )


def _typical_seconds(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], float]:
    """Give the median time of a step by schedule and batch."""
    times: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        times.setdefault((row["schedule"], row["batch_tokens"]), []).append(1e-3 * row["ms_per_step"])
    return {kind: float(np.median(own)) for kind, own in times.items()}


def read_outcome(path: Path) -> Outcome:
    """Read an outcome.

    Raises:
        RunError: the file is damaged, or none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Outcome)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(f"{path}: not the outcome of a trial ({error}); delete it and run the study again") from error
