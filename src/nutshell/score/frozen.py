"""Score a text with a model that does not change: windows in batches, by document or over the whole stream.

By document is the default and can be proved: each document is scored as if it were alone in the world. Over the stream
is the field's published definition, for comparison: a window sees the end of the previous document.

Windows of different documents share batches, padded on the right. The model is causal, so padding cannot reach a real
position. Windows that share a batch also share the offset of their first scored target, so the scored positions are
the last columns and the model is asked for those only.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np

from nutshell.errors import DataError, RecipeError
from nutshell.score.ledger import Score, ScoreLedger, Strategy
from nutshell.score.predictor import Predictor, Progress
from nutshell.score.text import Documents, Track
from nutshell.score.windows import Window, WindowPlan


class Scores(NamedTuple):
    """What a model reaches on a text: by document under a plan of its own, and by two definitions that others quote.

    Attributes:
        own: The answer, which can be proved.
        disjoint: By document, in disjoint windows.
        stream: Over the stream, in disjoint windows: the field's published definition.
    """

    own: Score
    disjoint: Score
    stream: Score


def score_every_way(
    predictor: Predictor, documents: Documents, plan: WindowPlan, *, progress: Progress | None = None
) -> Scores:
    """Score by every definition; disjoint windows that are the plan are not scored twice. One progress runs over all.

    Arguments and errors are those of `score_documents`.
    """
    disjoint = WindowPlan(context=plan.context, stride=plan.context)
    lengths = [len(tokens) + 1 for tokens in documents.tokens]
    plans = list(dict.fromkeys([plan, disjoint]))
    work = [*(sum(map(each.num_inputs, lengths)) for each in plans), disjoint.num_inputs(sum(lengths) - 1)]
    parts = [_part(progress, work, place) for place in range(len(work))]
    by_document = [
        score_documents(predictor, documents, each, progress=part) for each, part in zip(plans, parts[:-1], strict=True)
    ]
    stream = score_stream(predictor, documents, disjoint, progress=parts[-1])
    return Scores(by_document[0], by_document[-1], stream)


def score_documents(
    predictor: Predictor,
    documents: Documents,
    plan: WindowPlan,
    *,
    batch_tokens: int = 8_192,
    progress: Progress | None = None,
) -> Score:
    """Score each document by itself, its end included.

    Args:
        predictor: The model.
        documents: All of a text, or a sample of it: then the metric is `subset_bpb`.
        plan: Context and stride.
        batch_tokens: Most input tokens in one call of the model, padding included (one window may exceed it).
        progress: Told how far the work is.

    Raises:
        RecipeError: the plan's context is longer than the model takes.
        DataError: the text was tokenized for another vocabulary.
        LegalityError: the model's values cannot be a score.
    """
    return _score(predictor, documents, plan, unit="document", batch_tokens=batch_tokens, progress=progress)


def score_stream(
    predictor: Predictor,
    documents: Documents,
    plan: WindowPlan,
    *,
    batch_tokens: int = 8_192,
    progress: Progress | None = None,
) -> Score:
    """Score all documents as one stream of tokens, as the field's evaluators do; arguments as in `score_documents`."""
    return _score(predictor, documents, plan, unit="stream", batch_tokens=batch_tokens, progress=progress)


class _Job(NamedTuple):
    track: int
    window: Window


def _score(
    predictor: Predictor,
    documents: Documents,
    plan: WindowPlan,
    *,
    unit: Literal["document", "stream"],
    batch_tokens: int,
    progress: Progress | None,
) -> Score:
    if plan.context > predictor.context:
        raise RecipeError(f"scoring context {plan.context} is longer than the model's {predictor.context}: lower it")
    if documents.tokenizer.vocab_size != predictor.vocab_size:
        raise DataError(
            f"the text has a vocabulary of {documents.tokenizer.vocab_size} tokens, the model one of "
            f"{predictor.vocab_size}: tokenize the text with the model's tokenizer"
        )
    by_document = unit == "document"
    tracks = documents.tracks() if by_document else [documents.stream()]
    total = sum(plan.num_inputs(len(track.targets)) for track in tracks)
    ledger = ScoreLedger(tracks)
    done = 0
    for batch in _batches(tracks, plan, batch_tokens):
        for job, nats in zip(batch, _nats(predictor, tracks, batch), strict=True):
            ledger.commit(job.track, job.window.score_from, nats)
            done += job.window.stop - job.window.start
        if progress:
            progress(done, total)
    strategy = Strategy(
        kind=plan.kind,
        unit=unit,
        context=plan.context,
        stride=plan.stride,
        rules=("charge_end",) if by_document else ("charge_bos",),
    )
    return ledger.finish(documents, strategy)


def _part(progress: Progress | None, work: list[int], place: int) -> Progress | None:
    """Give one of several pieces of work its part of a progress over all of them."""
    if progress is None:
        return None
    before, total = sum(work[:place]), sum(work)
    return lambda done, _: progress(before + done, total)


def _batches(tracks: list[Track], plan: WindowPlan, batch_tokens: int) -> Iterator[list[_Job]]:
    """Group windows of equal offset, longest first, so that a batch wastes little on padding."""
    jobs = [_Job(index, window) for index, track in enumerate(tracks) for window in plan.windows(len(track.targets))]
    jobs.sort(key=lambda job: (_offset(job), job.window.start - job.window.stop))
    for _, group in groupby(jobs, key=_offset):
        same_offset = list(group)
        first = 0
        while first < len(same_offset):
            longest = same_offset[first].window.stop - same_offset[first].window.start
            rows = max(1, batch_tokens // longest)
            yield same_offset[first : first + rows]
            first += rows


def _offset(job: _Job) -> int:
    return job.window.score_from - job.window.start


def _nats(predictor: Predictor, tracks: list[Track], batch: list[_Job]) -> Iterator[np.ndarray]:
    """Score a batch of windows of equal offset, the longest first; yield the nats that each window scores."""
    length = batch[0].window.stop - batch[0].window.start
    offset = _offset(batch[0])
    inputs = np.zeros((len(batch), length), dtype=np.int64)  # any token will do as padding
    targets = np.zeros((len(batch), length - offset), dtype=np.int64)
    for row, (track, window) in enumerate(batch):
        inputs[row, : window.stop - window.start] = tracks[track].inputs[window.start : window.stop]
        targets[row, : window.stop - window.score_from] = tracks[track].targets[window.score_from : window.stop]
    nats = predictor.nats(inputs, targets)
    assert nats.shape == targets.shape, f"predictor returned {nats.shape} for targets {targets.shape}"
    for row, (_, window) in enumerate(batch):
        yield nats[row, : window.stop - window.score_from]
