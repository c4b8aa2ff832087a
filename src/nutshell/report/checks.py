"""What a reader can recompute from a run's stored files: the numbers must agree with each other.

A check passes, fails, or cannot tell; it shows the figures it compared and never says more than that.
"""

from typing import Literal

import msgspec

from nutshell.report.stored import StoredRun
from nutshell.units import bits_from_nats

# A stored number keeps full precision, so two ways to the same total may differ only by rounding.
_TOTAL_TOLERANCE = 1e-6
# A coder spends a little over the model's own code length; a proof allows this much.
_CODER_TOLERANCE = 1e-3
_CODER_SLACK_BITS = 64  # the coder ends on whole words; docs/scoring-rules.md


class Check(msgspec.Struct, frozen=True):
    """One comparison: what should hold, whether it does, and the figures."""

    claim: str
    verdict: Literal["passed", "failed", "cannot tell"]
    evidence: str


def check_run(run: StoredRun) -> list[Check]:
    """Compare every pair of stored numbers that must agree."""
    return [_totals(run), _coverage(run), _budget(run), _sections(run), _parameters(run), _proof_length(run)]


def _check(claim: str, holds: bool, evidence: str) -> Check:
    return Check(claim, "passed" if holds else "failed", evidence)


def _totals(run: StoredRun) -> Check:
    claim = "Bits per byte x bytes and nats per token x tokens give the same total"
    if run.score is None:
        return Check(claim, "cannot tell", "not scored")
    by_bytes = run.score.bpb * run.score.bytes
    by_tokens = bits_from_nats(run.score.nats_per_token * run.score.tokens)
    return _check(
        claim, abs(by_bytes - by_tokens) <= _TOTAL_TOLERANCE * by_bytes, f"{by_bytes:,.1f} and {by_tokens:,.1f} bits"
    )


def _coverage(run: StoredRun) -> Check:
    claim = "Every byte of the text was charged, once"
    if run.score is None:
        return Check(claim, "cannot tell", "not scored")
    return _check(claim, run.score.coverage == 1, f"coverage {run.score.coverage:.6f}")


def _budget(run: StoredRun) -> Check:
    claim = "The artifact is within its budget"
    size, budget = run.summary.artifact_bytes, run.summary.budget_bytes
    if size is None or budget is None:
        return Check(claim, "cannot tell", "not packed under a budget")
    return _check(claim, size <= budget, f"{size:,} of {budget:,} bytes")


def _sections(run: StoredRun) -> Check:
    claim = "The sections add up to the artifact"
    if run.ledger is None:
        return Check(claim, "cannot tell", "not packed")
    total, size = sum(section.bytes for section in run.ledger.sections), run.ledger.artifact_bytes
    return _check(claim, total == size == run.summary.artifact_bytes, f"sections {total:,}, artifact {size:,} bytes")


def _parameters(run: StoredRun) -> Check:
    total, trained = sum(run.description.params_by_role.values()), run.receipt.num_params
    return _check(
        "The roles add up to the parameters that were trained",
        total == trained == run.description.num_params,
        f"roles {total:,}, trained {trained:,}",
    )


def _proof_length(run: StoredRun) -> Check:
    claim = "The proof's coded length is within 0.1 % (and 64 bits) of the claimed bits"
    proof = run.summary.proof
    if proof is None:
        return Check(claim, "cannot tell", "not proved")
    evidence = (
        f"coded {proof.coded_bits:,.0f}, claimed {proof.claimed_bits:,.1f} bits ({100 * proof.excess_frac:+.4f} %)"
    )
    return _check(
        claim,
        abs(proof.coded_bits - proof.claimed_bits) <= _CODER_TOLERANCE * proof.claimed_bits + _CODER_SLACK_BITS,
        evidence,
    )
