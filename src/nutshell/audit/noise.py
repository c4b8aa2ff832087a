"""P1: nobody predicts noise. Independent uniform tokens cost ln V nats each, whatever is done; who pays less, peeked.

For any predictor that is honest, V^n times the probability that it gave n such tokens is a martingale of mean one, so
by Ville's inequality it ever exceeds 1/a with probability at most a. No assumption is made about the predictor, and
none about how much of the stream it has seen.
"""

import math

import numpy as np

from nutshell.audit.subjects import Subject
from nutshell.audit.verdict import Verdict

NAME = "P1 noise"
LEAST = 10_000
CHANCE = 1e-9
"""Probability that an honest predictor fails."""


def probe_noise(subject: Subject, *, tokens: int, seed: int) -> Verdict:
    """Score so many independent uniform tokens."""
    vocab_size = subject.vocab_size
    drawn = np.random.default_rng(seed).integers(0, vocab_size, tokens)
    nats = subject.score(np.append(subject.bos_id, drawn).astype(np.int64)).nats
    gained = math.log(vocab_size) - nats
    most = float(np.cumsum(gained).max(initial=0.0))
    whole = len(nats) == tokens and bool(np.isfinite(nats).all())
    if not whole:
        failed, evidence = True, f"{len(nats):,} values for {tokens:,} targets, {np.isfinite(nats).sum():,} finite"
    else:
        failed = most > -math.log(CHANCE)
        evidence = (
            f"{nats.mean():.4f} nats a token, ln V = {math.log(vocab_size):.4f}; at most {most:.1f} nats below chance, "
            f"of which {-math.log(CHANCE):.1f} have probability {CHANCE:g}"
        )
    return Verdict(
        probe=NAME,
        answer="failed" if failed else "passed" if tokens >= LEAST else "cannot tell",
        evidence=evidence,
        saw=f"{tokens:,} tokens",
        needs=f"{LEAST:,} tokens",
        blind=f"leaks below {-math.log(CHANCE) / tokens:.1g} nats a token; hashed counts in more than about "
        f"{tokens:,} buckets, which this load does not fill",
    )
