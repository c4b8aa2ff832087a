"""Artifact bytes to a score for every number of passes of its loops, and to how these converge over the whole text."""

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nutshell.artifact.load import Loaded
from nutshell.config.struct import kind_of
from nutshell.errors import UsageError
from nutshell.files import sha256_bytes
from nutshell.model.probes.stopping import Loop, loops, pass_changes
from nutshell.model.probes.trace import eager_twin
from nutshell.pipeline import store
from nutshell.pipeline.scoring import set_up
from nutshell.pipeline.strategies import Disjoint, Rolling, Sliding, own_strategy
from nutshell.ranks import ALONE
from nutshell.score.means import BATCH_TOKENS, Means, rising
from nutshell.score.predictor import Progress
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan

# The published evaluation stops a sequence below the last of these (shared/spec/layer-sharing-167.md 1.2).
EPS = (0.1, 0.01, 0.001)


class PassChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass changed in the stream, over a whole text.

    Attributes:
        increment: RMS of the change, over all tokens.
        delta: Mean over windows of the RMS of the change relative to that of the stream before the pass.
        ratio: Delta over that of the pass before; None for the second pass, since the first changes nothing that was.
        below: Share of the windows whose relative change is below each bound.
    """

    increment: float
    delta: float
    ratio: float | None
    below: dict[str, float]


class PassScore(msgspec.Struct, frozen=True, kw_only=True):
    """A whole text scored with so many passes of a loop.

    Attributes:
        passes: How many; `schedule` is the whole model with them.
        bpb: Total bits over total bytes, by document.
        nats_per_token: Total nats over all targets.
        change: What the last of them changed; None for the first.
    """

    passes: int
    schedule: str
    bpb: float
    nats_per_token: float
    change: PassChange | None


class LoopScores(msgspec.Struct, frozen=True, kw_only=True):
    """A loop, as the schedule has it, by its passes; changes are means over so many disjoint windows."""

    loop: str
    windows: int
    passes: list[PassScore]


def read_passes(text: str) -> range:
    """Read the fewest and the most passes, as in `1-6`, or one number.

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text)
    fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= fewest <= most:
        raise UsageError(f"score: --passes {text}: give the fewest and the most, as in --passes 1-6")
    return range(fewest, most + 1)


def score_passes(
    artifact: Path,
    data_dir: Path,
    passes: range,
    *,
    schedule: str | None = None,
    stride: int | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Score the whole validation text with each number of passes of each loop, the other loops left as they are.

    Every number of passes is a schedule of its own, on the trained path (`Loaded.under`); the trained number is the
    artifact's own score, to the bit. Changes are measured in disjoint windows, in which each token is read once.

    Raises:
        UsageError: the schedule has no loop.
        RecipeError: the artifact's model cannot run the schedule, or one with another number of passes.
    """
    start = time.perf_counter()
    set_up()
    content, trained = store.open_artifact(artifact)
    dataset, documents = store.open_documents(data_dir, trained)
    text = trained.schedule.text if schedule is None else schedule
    trained.under(text)  # what is no schedule has no loops either, but should hear why
    found = loops(text)
    if not found:
        raise UsageError(f"score: --passes: '{text}' has no loop; give --schedule with one, written (blocks)xN")
    own = own_strategy(trained, stride=stride)
    variants = [[(number, trained.under(loop.times(number))) for number in passes] for loop in found]
    windows = _disjoint_windows(documents, trained.context)
    scored = own.num_inputs(trained, documents)
    advance = Means(progress=progress).meter(len(found) * (len(passes) * scored + documents.num_targets))
    read = []
    for loop, variants_of_loop in zip(found, variants, strict=True):
        changes = _changes(trained, replace(loop, passes=passes[-1]), windows, advance)
        rows = [_score(number, loaded, documents, own, changes, advance) for number, loaded in variants_of_loop]
        read.append(LoopScores(loop=loop.text, windows=len(windows), passes=rows))
    return {
        "schedule": text,
        "trained_schedule": trained.schedule.text,
        "windows": kind_of(own),
        "context": trained.context,
        "stride": own.plan(trained, stride).stride,
        "loops": msgspec.to_builtins(read),
        "tokens": documents.num_targets,
        "bytes": documents.num_bytes,
        "artifact_bytes": len(content),
        "artifact_sha256": sha256_bytes(content),
        "data_digest": dataset.digest,
        "seconds": time.perf_counter() - start,
    }


def _score(
    number: int,
    loaded: Loaded,
    documents: Documents,
    own: Disjoint | Sliding | Rolling,
    changes: dict[int, PassChange],
    advance: Callable[[int], None],
) -> PassScore:
    score = own.score(loaded, documents, Means(progress=rising(advance)), ALONE)
    return PassScore(
        passes=number,
        schedule=loaded.schedule.text,
        bpb=score.bpb,
        nats_per_token=score.nats_per_token,
        change=changes.get(number),
    )


def _changes(
    trained: Loaded, loop: Loop, windows: list[Int64[np.ndarray, " T"]], advance: Callable[[int], None]
) -> dict[int, PassChange]:
    """Read every window through all passes of a loop; give what each but the first changed."""
    if loop.passes == 1:
        return {}
    twin = eager_twin(trained.model, [trained.schedule])
    schedule = trained.under(loop.times(loop.passes)).schedule
    measured, lengths = [], []
    for batch in _batches(windows):
        measured.append(pass_changes(twin, loop, schedule, torch.from_numpy(batch)))
        lengths += [batch.shape[1]] * len(batch)
        advance(batch.size)
    absolute, relative = (torch.cat(parts, dim=1) for parts in zip(*measured, strict=True))  # P-1 W
    increments = _weighted_rms(absolute, torch.tensor(lengths))
    deltas = relative.mean(dim=1).tolist()
    ratios = [None, *(later / earlier for earlier, later in pairwise(deltas))]
    return {
        number: PassChange(
            increment=increments[row],
            delta=deltas[row],
            ratio=ratios[row],
            below={str(eps): (relative[row] < eps).double().mean().item() for eps in EPS},
        )
        for row, number in enumerate(range(2, loop.passes + 1))
    }


def _weighted_rms(values: Float[Tensor, "P-1 W"], lengths: Int64[Tensor, " W"]) -> list[float]:
    """Join RMS values of windows to those of all tokens."""
    return [math.sqrt(total) for total in ((values**2 * lengths).sum(dim=1) / lengths.sum()).tolist()]


def _disjoint_windows(documents: Documents, context: int) -> list[Int64[np.ndarray, " T"]]:
    plan = WindowPlan(context=context, stride=context)
    return [
        track.inputs[window.start : window.stop].astype(np.int64)
        for track in documents.tracks()
        for window in plan.windows(len(track.targets))
    ]


def _batches(windows: list[Int64[np.ndarray, " T"]]) -> Iterator[Int64[np.ndarray, "B T"]]:
    """Put windows of one length together: nothing is padded, so every position of a batch counts."""
    for length, group in groupby(sorted(windows, key=len), key=len):
        same, rows = list(group), max(1, BATCH_TOKENS // length)
        for first in range(0, len(same), rows):
            yield np.stack(same[first : first + rows])
