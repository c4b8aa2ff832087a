"""Score a text with a model that does not change, by document or over the whole stream.

By document is the default and can be proved: each document is scored as if it were alone in the world. Over the stream
is the field's published definition, for comparison: a window sees the end of the previous document.
"""

from typing import NamedTuple

from nutshell.score.chunks import Unit, score_in_chunks
from nutshell.score.ledger import Score, Strategy
from nutshell.score.means import BATCH_TOKENS, Means
from nutshell.score.predictor import Predictor, Progress
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan


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
    batch_tokens: int = BATCH_TOKENS,
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
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Score:
    """Score all documents as one stream of tokens, as the field's evaluators do; arguments as in `score_documents`."""
    return _score(predictor, documents, plan, unit="stream", batch_tokens=batch_tokens, progress=progress)


def _score(
    predictor: Predictor,
    documents: Documents,
    plan: WindowPlan,
    *,
    unit: Unit,
    batch_tokens: int,
    progress: Progress | None,
) -> Score:
    means = Means(batch_tokens=batch_tokens, progress=progress)
    return score_in_chunks(predictor, documents, plan, Strategy.of(plan, unit), means=means)


def _part(progress: Progress | None, work: list[int], place: int) -> Progress | None:
    """Give one of several pieces of work its part of a progress over all of them."""
    if progress is None:
        return None
    before, total = sum(work[:place]), sum(work)
    return lambda done, _: progress(before + done, total)
