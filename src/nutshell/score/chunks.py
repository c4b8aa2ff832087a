"""Score a text chunk by chunk, in its own order; what learns may do so between two chunks, from the chunk before.

The order is the point: a chunk is scored by the model as it is, charged in the ledger, and only then handed to whoever
learns. The last chunk teaches nobody, since nothing is left to score. A model that does not change runs through the
same lines, so that learning at rate zero is the frozen score, to the bit.

A window belongs to the chunk of its first scored target, counted through all tracks. Where the stride divides the size
of a chunk, its targets are exactly those of the published evaluators.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Literal

from nutshell.score.batches import Job, check_fit, nats_of
from nutshell.score.ledger import Score, ScoreLedger, Strategy
from nutshell.score.means import Means
from nutshell.score.mixtures import NgramConfig
from nutshell.score.predictor import Predictor, Scored
from nutshell.score.text import Documents, Track
from nutshell.score.windows import WindowPlan

Unit = Literal["document", "stream"]
Learn = Callable[[Sequence[Scored], float], None]
"""Given what a chunk has scored, in the order of the text, and the share of all chunks that it ends: learn from it."""

# Targets, as the published evaluators learn from at a time.
CHUNK_TARGETS = 32_768


def score_in_chunks(
    predictor: Predictor,
    documents: Documents,
    plan: WindowPlan,
    strategy: Strategy,
    *,
    chunk_targets: int = CHUNK_TARGETS,
    learn: Learn | None = None,
    mixture: NgramConfig | None = None,
    means: Means,
) -> Score:
    """Score documents one by one or as a stream, as the strategy's unit says.

    Args:
        predictor: The model, as it is at each time.
        documents: All of a text, or a sample of it.
        plan: Context and stride.
        strategy: What the score will say of how it was made.
        chunk_targets: Targets of a chunk.
        learn: What changes the predictor between chunks, on all processes alike.
        mixture: What the model is mixed with; nothing learns from it.
        means: With what it is scored.

    Raises:
        RecipeError: the plan's context is longer than the model takes.
        DataError: the text was tokenized for another vocabulary.
        LegalityError: the model's values cannot be a score.
        BudgetError: there is not the time for one chunk.
    """
    check_fit(plan.context, predictor.context, predictor.vocab_size, documents)
    tracks = documents.tracks() if strategy.unit == "document" else [documents.stream()]
    ledger = ScoreLedger(tracks, mixture)
    total_inputs = sum(plan.num_inputs(len(track.targets)) for track in tracks)
    total = sum(len(track.targets) for track in tracks)
    last = last_chunk(total, chunk_targets)
    advance = means.meter(total_inputs)
    done = 0
    if means.budget:
        means.budget.begin()
    for number, jobs in _chunks(tracks, plan, chunk_targets):
        for job, nats in zip(jobs, nats_of(predictor, tracks, jobs, means, advance), strict=True):
            ledger.commit(job.track, job.window.score_from, nats)
        done += sum(job.num_targets for job in jobs)
        if done == total or not (means.budget is None or means.budget.allows_more(done, total, means.team)):
            break
        if learn:
            learn(_stretches(ledger, jobs), number / last)
    return ledger.finish(documents, strategy, whole=means.budget is None)


def _chunks(tracks: Sequence[Track], plan: WindowPlan, chunk_targets: int) -> Iterator[tuple[int, list[Job]]]:
    """Number the chunks that have windows, and give these in the order of the text."""

    def numbered() -> Iterator[tuple[int, Job]]:
        before = 0
        for index, track in enumerate(tracks):
            for window in plan.windows(len(track.targets)):
                yield (before + window.score_from) // chunk_targets, Job(index, window)
            before += len(track.targets)

    for number, group in groupby(numbered(), key=lambda pair: pair[0]):
        yield number, [job for _, job in group]


def last_chunk(num_targets: int, chunk_targets: int) -> int:
    """Give the number of the chunk that the last target is in."""
    return (num_targets - 1) // chunk_targets


def _stretches(ledger: ScoreLedger, jobs: Sequence[Job]) -> list[Scored]:
    """Join what the windows of a chunk have scored, track by track."""
    stretches = []
    for track, group in groupby(jobs, key=lambda job: job.track):
        own = list(group)
        stretches.append(ledger.scored(track, own[0].window.score_from, own[-1].window.stop))
    return stretches
