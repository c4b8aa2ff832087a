"""Score a text with a model that does not change, by document or over the whole stream.

By document is the default and can be proved: each document is scored as if it were alone in the world. Over the stream
is the field's published definition, for comparison: a window sees the end of the previous document.
"""

from nutshell.score.chunks import Unit, score_in_chunks
from nutshell.score.ledger import Score, Strategy
from nutshell.score.means import BATCH_TOKENS, Means
from nutshell.score.predictor import Predictor, Progress
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan


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
