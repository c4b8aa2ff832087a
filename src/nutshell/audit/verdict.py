"""What a probe found."""

from typing import Literal

import msgspec

Answer = Literal["passed", "failed", "cannot tell", "not run"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one probe.

    Attributes:
        probe: Its number and name.
        answer: What it found; `not run` if the subject does not allow it.
        evidence: The numbers behind the answer, in one line.
        saw: How much data it ran on.
        needs: The least that makes its answer mean something.
        blind: What it cannot see.
    """

    probe: str
    answer: Answer
    evidence: str
    saw: str
    needs: str
    blind: str


def overall(verdicts: list[Verdict]) -> Answer:
    """Sum up: one that failed is enough; what was not run counts for nothing."""
    answers = {verdict.answer for verdict in verdicts} - {"not run"}
    if "failed" in answers:
        return "failed"
    return "cannot tell" if "cannot tell" in answers or not answers else "passed"
