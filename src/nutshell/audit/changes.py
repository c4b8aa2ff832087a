"""P3 and P4: what comes later, or in another document, changes nothing.

P3 flips a token of the future, and the last ones of a document before. P4 swaps all that follows a target.
The values of all targets before must stay. Before that, the same stream is scored twice: where this already differs,
nothing can be told.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nutshell.audit.subjects import Online, Stream, Subject
from nutshell.audit.verdict import Verdict

FLIPS, SUFFIXES = "P3 flips", "P4 suffix swap"
LEAST = 256
"""Tokens of a stream in which a change has something to change."""
POSITIONS = 6
TOLERANCE = 1e-4
"""In nats: other batches round differently in fp32."""
LAST_TOKENS = 512


class Change(NamedTuple):
    """A changed stream, and the targets that must cost what they did."""

    tokens: Stream
    same: slice
    what: str


def probe_flips(subject: Subject, text: Stream, *, seed: int) -> Verdict:
    """Change a token of the future; and the document before, or its end, if documents are said to be independent."""
    documents = list(_documents_before(subject, text, seed)) if subject.independent else []
    future = [] if isinstance(subject, Online) else list(_future_flips(subject, text, seed))
    said = "; it was asked before it was told, so the future cannot matter" if isinstance(subject, Online) else ""
    blind = "what other tokens would have changed; changes below 1e-4 nats"
    if not subject.independent:
        blind += "; whether documents influence one another, which this subject does not deny"
    if isinstance(subject, Online) and not subject.independent:
        return _verdict(FLIPS, "passed", "asked before it was told: the future cannot matter", text, 0, blind)
    return _judge(FLIPS, subject, text, [*future, *documents], said, blind)


def probe_suffixes(subject: Subject, text: Stream, *, seed: int) -> Verdict:
    """Replace everything behind a target, at several."""
    blind = "what other continuations would have changed; what depends on the length of the stream"
    if isinstance(subject, Online):
        return _verdict(SUFFIXES, "passed", "asked before it was told: the future cannot matter", text, 0, blind)
    return _judge(SUFFIXES, subject, text, list(_suffixes(subject, text, seed)), "", blind)


def _judge(probe: str, subject: Subject, text: Stream, changes: list[Change], said: str, blind: str) -> Verdict:
    first, again = subject.score(text).nats, subject.score(text).nats
    if len(first) != len(text) - 1:
        return _verdict(probe, "cannot tell", f"{len(first):,} values for {len(text) - 1:,} targets", text, 0, blind)
    if not _same(first, again):
        evidence = f"the same stream twice: up to {_largest(first, again):.2g} nats apart"
        return _verdict(probe, "cannot tell", evidence, text, 0, blind)
    worst = 0.0
    for change in changes:
        found = subject.score(change.tokens).nats
        if len(found) != len(first):
            evidence = f"{change.what}: {len(found):,} values instead of {len(first):,}"
            return _verdict(probe, "failed", evidence, text, len(changes), blind)
        moved = _largest(first[change.same], found[change.same])
        worst = max(worst, moved)
        if moved > TOLERANCE:
            place = int(np.argmax(np.abs(first[change.same] - found[change.same]))) + (change.same.start or 0)
            evidence = f"{change.what} moved target {place:,} by {moved:.3g} nats"
            return _verdict(probe, "failed", evidence, text, len(changes), blind)
    answer = "passed" if len(text) >= LEAST and changes else "cannot tell"
    return _verdict(probe, answer, f"largest change {worst:.1g} nats{said}", text, len(changes), blind)


def _future_flips(subject: Subject, text: Stream, seed: int) -> Iterator[Change]:
    """Change the token of a target; those before it must cost what they did."""
    generator = np.random.default_rng(seed)
    for place in _places(len(text)):
        changed = text.copy()
        changed[place] = _other(int(text[place]), subject, generator)
        yield Change(changed, slice(0, place - 1), f"token {place:,} changed: it")


def _suffixes(subject: Subject, text: Stream, seed: int) -> Iterator[Change]:
    generator = np.random.default_rng(seed)
    for place in _places(len(text)):
        rest = generator.integers(0, subject.vocab_size, len(text) - place - 1)
        changed = np.concatenate([text[: place + 1], rest])
        yield Change(changed, slice(0, place), f"all behind token {place:,} changed: it")


def _documents_before(subject: Subject, text: Stream, seed: int) -> Iterator[Change]:
    """Change the end of a document; all later ones must cost what they did."""
    generator = np.random.default_rng(seed)
    ends = np.flatnonzero(text == subject.bos_id)[1:]
    ends = ends[ends < len(text) - 1]
    for end in ends[np.linspace(0, len(ends) - 1, min(POSITIONS, len(ends))).astype(int)] if len(ends) else ():
        changed = text.copy()
        for place in range(max(1, end - LAST_TOKENS), end):
            if text[place] != subject.bos_id:
                changed[place] = _other(int(text[place]), subject, generator)
        if not np.array_equal(changed, text):
            yield Change(
                changed, slice(end, len(text) - 1), f"the end of the document before token {end:,} changed: it"
            )


def _places(length: int) -> list[int]:
    return sorted({int(place) for place in np.linspace(length // 8, length - 2, POSITIONS) if place >= 1})


def _other(token: int, subject: Subject, generator: np.random.Generator) -> int:
    """Draw another token, not BOS."""
    while (drawn := int(generator.integers(0, subject.vocab_size))) in (token, subject.bos_id):
        pass
    return drawn


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return len(one) == len(other) and _largest(one, other) <= TOLERANCE


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    """Give the largest difference; two values that are both infinite or no numbers are the same."""
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        return float(np.where(same, 0.0, np.nan_to_num(np.abs(one - other), nan=np.inf)).max(initial=0.0))


def _verdict(probe: str, answer: str, evidence: str, text: Stream, changes: int, blind: str) -> Verdict:
    return Verdict(
        probe=probe,
        answer=answer,  # pyright: ignore[reportArgumentType]  # one of the three above
        evidence=evidence,
        saw=f"{changes} changes in {len(text):,} tokens",
        needs=f"{LEAST:,} tokens",
        blind=blind,
    )
