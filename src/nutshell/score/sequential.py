"""Score a text with a predictor that is told one token at a time, whatever it does in between."""

import numpy as np

from nutshell.errors import DataError
from nutshell.score.ledger import Score, ScoreLedger, Strategy
from nutshell.score.predictor import OnlinePredictor, Progress
from nutshell.score.text import Documents
from nutshell.score.walk import commit


def score_online(
    predictor: OnlinePredictor,
    documents: Documents,
    *,
    kind: str,
    settings: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score documents one after the other, each target by the distribution that was given before it came.

    What it predicts from is its own affair, so that its context is said to be the longest document.

    Args:
        predictor: Predicts one document at a time.
        documents: All of a text, or a sample of it.
        kind: What the score calls the strategy.
        settings: What the score says besides of how it was made.
        progress: Told how far the work is.

    Raises:
        DataError: the text was tokenized for another vocabulary.
        ProofError: the predictor gave something that is not a distribution.
    """
    vocab_size = documents.tokenizer.vocab_size
    if vocab_size != predictor.vocab_size:
        raise DataError(
            f"the text has a vocabulary of {vocab_size} tokens, the predictor one of {predictor.vocab_size}"
        )
    tracks = documents.tracks()
    ledger = ScoreLedger(tracks)
    done, total = 0, documents.num_targets
    for place, track in enumerate(tracks):
        predictor.begin(1)
        for position, target in enumerate(track.targets.astype(np.int64)):
            log_probs, _ = commit(predictor, documents.ids[place : place + 1], position)
            ledger.commit(place, position, -log_probs[:, target].astype(np.float64))
            predictor.tell(target[None])
            done += 1
            if progress:
                progress(done, total)
    longest = max(len(track.targets) for track in tracks)
    strategy = Strategy(
        kind=kind, unit="document", context=longest, stride=longest, rules=("charge_end",), settings=settings or {}
    )
    return ledger.finish(documents, strategy)
