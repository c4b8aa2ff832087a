"""P5: each target once, each byte once: as many values as targets, all of them costs, and the bytes of the text."""

import numpy as np

from nutshell.audit.subjects import Reported, Stream, Subject
from nutshell.audit.verdict import Verdict
from nutshell.score.ledger import MOST_NEGATIVE_NATS
from nutshell.units import bits_per_byte

SAME_SCORE = 1e-4
"""Relative: of what was printed with few digits."""
NAME = "P5 coverage and bytes"


def probe_coverage(subject: Subject, text: Stream, golden_bytes: int) -> Verdict:
    """Score a text of known bytes."""
    found = subject.score(text)
    targets = len(text) - 1
    faults = []
    if len(found.nats) != targets:
        faults.append(f"{len(found.nats):,} values for {targets:,} targets")
    if (bad := ~(np.isfinite(found.nats) & (found.nats >= MOST_NEGATIVE_NATS))).any():
        faults.append(f"value {int(bad.argmax()):,} is {found.nats[bad.argmax()]}, no -log of a probability")
    if found.num_bytes is not None and found.num_bytes != golden_bytes:
        faults.append(f"{found.num_bytes:,} bytes counted, the text has {golden_bytes:,}")
    bpb = bits_per_byte(float(found.nats.sum()), golden_bytes)
    if found.bpb is not None and not abs(found.bpb / bpb - 1) <= SAME_SCORE:
        faults.append(f"{found.bpb:.5f} bits per byte said, {bpb:.5f} of all bits over all bytes")
    counted = "bytes not told" if found.num_bytes is None else f"{found.num_bytes:,} bytes, those of the text"
    return Verdict(
        probe=NAME,
        answer="failed" if faults else "passed",
        evidence="; ".join(faults) or f"{targets:,} values for as many targets; {counted}",
        saw=f"{targets:,} targets, {golden_bytes:,} bytes",
        needs="1 document",
        blind=_blind(found),
    )


def _blind(found: Reported) -> str:
    """Say what was not told."""
    unsaid = [("how bytes are counted", found.num_bytes), ("how the score is made of the values", found.bpb)]
    return "; ".join(what for what, value in unsaid if value is None) or "other texts"
