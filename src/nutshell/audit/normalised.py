"""P2: the distribution is one: over the whole vocabulary it adds up to one, whatever the target is."""

import numpy as np

from nutshell.audit.subjects import Online, Stream, Subject
from nutshell.audit.verdict import Verdict
from nutshell.score.coding import NORMALISATION_TOLERANCE

NAME = "P2 normalisation"
LEAST_POSITIONS = 1
ENUMERATED_TOLERANCE = 1e-3
"""Of the logarithm of a sum whose parts come from as many scorings, in fp32 as a rule."""
PREFIX = 96


def probe_normalised(subject: Subject, text: Stream, *, most_calls: int) -> Verdict:
    """Add up every distribution of a text that is played; of who scores whole streams, put every token in turn."""
    if isinstance(subject, Online):
        return _played(subject, text)
    if subject.vocab_size > most_calls:
        evidence = f"every token of {subject.vocab_size:,} in one place, each a call: at most {most_calls:,} are made"
        return _verdict("not run", evidence, 0)
    count = max(1, min(8, most_calls // subject.vocab_size))
    places = np.linspace(min(8, len(text) - 1), min(PREFIX, len(text) - 1), count).astype(int)
    worst = max((_enumerated(subject, text[:place]) for place in places), key=abs)
    fits = abs(worst) <= ENUMERATED_TOLERANCE
    evidence = f"every token in turn at {count} positions: logsumexp at worst {worst:+.2g}"
    return _verdict("passed" if fits else "failed", evidence, count)


def _played(subject: Online, text: Stream) -> Verdict:
    worst, number = 0.0, 0
    for places, log_probs in subject.play(text):
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            excess = np.where(np.isfinite(log_probs).all(axis=1), np.log(np.exp(log_probs).sum(axis=1)), np.nan)
        number += len(places)
        if len(bad := np.flatnonzero(~(np.abs(excess) <= NORMALISATION_TOLERANCE))):
            return _verdict("failed", f"logsumexp {excess[bad[0]]:.3g} at target {places[bad[0]]:,}", number)
        worst = max(worst, float(np.abs(excess).max()))
    return _verdict("passed", f"largest |logsumexp| {worst:.1e}, allowed {NORMALISATION_TOLERANCE:g}", number)


def _enumerated(subject: Subject, prefix: Stream) -> float:
    """Give the logarithm of the sum of what each token would have cost as the last of a stream."""
    nats = [subject.score(np.append(prefix, token)).nats[-1:] for token in range(subject.vocab_size)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        total = np.exp(-np.concatenate(nats)).sum() if all(len(value) for value in nats) else np.nan
        return float(np.nan_to_num(np.log(total), nan=np.inf))


def _verdict(answer: str, evidence: str, positions: int) -> Verdict:
    return Verdict(
        probe=NAME,
        answer=answer,  # pyright: ignore[reportArgumentType]  # one of those above
        evidence=evidence,
        saw=f"{positions:,} positions",
        needs=f"{LEAST_POSITIONS} position",
        blind="other positions than these",
    )
