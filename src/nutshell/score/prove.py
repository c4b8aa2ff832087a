"""The proof of a score: a bitstream of the claimed length that decodes to the text.

`prove` encodes documents with the model's own distributions, decodes the bitstream with the model alone, and compares.
If the text comes back byte for byte and the bitstream is as long as the score says, then no distribution can have
depended on the token that it was for, none can have been unnormalised, and no target or byte was miscounted: a decoder
that has no text would have gone astray.

Documents are sorted by length, longest first, and run in batches of `rows`; the bitstream holds them batch by batch,
within a batch position by position, within a position row by row. Encoder and decoder must compute bit-identical
distributions: same code (`stepper.walk`), same layout, same machine, threads and versions, which the receipt records.
"""

import time
from typing import NamedTuple

import msgspec
import numpy as np

from nutshell.errors import LegalityError, ProofError
from nutshell.files import sha256_bytes
from nutshell.score.ledger import Score
from nutshell.score.predictor import Progress, Stepper
from nutshell.score.stepper import Decoded, Layout, decode, encode
from nutshell.score.text import Documents, Pieces, decode_text
from nutshell.score.windows import WindowPlan
from nutshell.units import bits_from_nats

LENGTH_TOLERANCE = 1e-3
"""Largest relative difference between coded and claimed bits."""
LENGTH_SLACK_BITS = 64
"""Allowed on top: the range coder ends on a whole number of 32-bit words."""
TOKENS_PER_BIT = 64
"""No text is so predictable: a receipt that claims more would keep a decoder at work without end."""

PROVABLE = ("disjoint", "sliding")
"""Strategies whose every distribution follows from the windows and the model alone."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was proved, and all that a decoder needs besides the artifact and the bitstream.

    Attributes:
        ok: The bitstream decodes to the text and has the claimed length.
        reason: Why not, in one line; empty if `ok`.
        documents: Number of documents.
        tokens: Targets coded, closing BOS included.
        bytes: Bytes of text that they stand for.
        claimed_bits: What the score claims for exactly these documents.
        coded_bits: Bits of the bitstream.
        overhead: `coded_bits / claimed_bits - 1`.
        text_sha256: Of the bytes of the documents, joined in the layout's order.
        decoded_sha256: The same of what was decoded.
        bitstream_sha256: Of the bitstream.
        layout: Order of computation, and which documents.
        environment: Machine, threads and versions, as the caller gave them.
        encode_seconds: Time to encode.
        decode_seconds: Time to decode.
    """

    ok: bool
    reason: str
    documents: int
    tokens: int
    bytes: int
    claimed_bits: float
    coded_bits: int
    overhead: float
    text_sha256: str
    decoded_sha256: str
    bitstream_sha256: str
    layout: Layout
    environment: dict[str, str]
    encode_seconds: float
    decode_seconds: float


class Proof(NamedTuple):
    """A bitstream and what it proves."""

    bitstream: bytes
    receipt: Receipt


def prove(
    stepper: Stepper,
    documents: Documents,
    score: Score,
    *,
    environment: dict[str, str],
    rows: int = 32,
    progress: Progress | None = None,
) -> Proof:
    """Encode documents, decode them again with the model alone, and compare text and length with the claim.

    A proof that fails is a result: its receipt says `ok = False` and why. Only a model or a score that cannot be put
    to the proof at all raises.

    Args:
        stepper: The model, one token at a time.
        documents: What to prove: a sample of the scored documents, or all.
        score: The claim; windows are laid as it laid them.
        environment: Machine, threads and versions, for the receipt.
        rows: Documents that run side by side.
        progress: Told how far the work is; each token counts twice, encoded and decoded.

    Raises:
        ProofError: the model's values are not distributions.
        LegalityError: the score makes no claim about one of the documents, or one that no model can meet, or it is by
            a strategy whose distributions the model alone does not give.
    """
    how = score.strategy
    if how.kind not in PROVABLE or how.settings.get("mixture"):
        mixed = ", mixed," if how.settings.get("mixture") else ""
        raise LegalityError(
            f"a score by '{how.kind}'{mixed} cannot be proved yet: only {' or '.join(PROVABLE)} windows"
        )
    if score.strategy.context > stepper.context:
        raise LegalityError(f"the score saw {score.strategy.context} tokens, the model takes only {stepper.context}")
    order = sorted(range(len(documents.ids)), key=lambda place: -len(documents.tokens[place]))
    documents = documents.take(order)
    claimed_bits = bits_from_nats(score.claimed_nats(documents.ids))
    if claimed_bits <= 0:
        raise LegalityError(
            f"the score claims {claimed_bits:g} bits for {len(documents.ids)} documents: no code is that short"
        )
    plan = WindowPlan(context=score.strategy.context, stride=score.strategy.stride)
    layout = Layout.of(documents, plan, rows)

    clock = [time.perf_counter()]
    bitstream = encode(stepper, documents, layout, _half(progress, 0))
    clock.append(time.perf_counter())
    decoded = decode(stepper, bitstream, layout, _half(progress, 1))
    clock.append(time.perf_counter())

    text = documents.text()
    coded_bits = 8 * len(bitstream)
    reason = _divergence(documents, layout, decoded) or _length_fault(coded_bits, claimed_bits)
    receipt = Receipt(
        ok=not reason,
        reason=reason,
        documents=len(documents.ids),
        tokens=documents.num_targets,
        bytes=len(text),
        claimed_bits=claimed_bits,
        coded_bits=coded_bits,
        overhead=coded_bits / claimed_bits - 1,
        text_sha256=sha256_bytes(text),
        decoded_sha256=sha256_bytes(decode_text(documents.tokenizer, decoded.tokens)),
        bitstream_sha256=sha256_bytes(bitstream),
        layout=layout,
        environment=environment,
        encode_seconds=clock[1] - clock[0],
        decode_seconds=clock[2] - clock[1],
    )
    return Proof(bitstream, receipt)


def verify(
    stepper: Stepper,
    tokenizer: Pieces,
    proof: Proof,
    *,
    environment: dict[str, str],
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Decode a proof in a process that has no text; return the documents' tokens in the layout's order.

    Args:
        stepper: The model, one token at a time.
        tokenizer: What turns its tokens into bytes.
        proof: A bitstream and its receipt, which may come from a stranger.
        environment: Machine, threads and versions of this process, to say what differs if decoding goes astray.
        progress: Told how far the work is.

    Raises:
        ProofError: the receipt tells of a failed proof or of another model, or contradicts itself; the bitstream is
            not the receipt's, does not decode to the text, or is not as long as claimed.
    """
    bitstream, receipt = proof
    if sha256_bytes(bitstream) != receipt.bitstream_sha256:
        raise ProofError("the bitstream is not the one that the receipt was written for: one of them was altered")
    if fault := _receipt_fault(receipt, stepper, tokenizer, 8 * len(bitstream)):
        raise ProofError(fault)
    decoded = decode(stepper, bitstream, receipt.layout, progress)
    if decoded.fault:
        raise ProofError(decoded.fault + _what_differs(receipt.environment, environment))
    text = decode_text(tokenizer, decoded.tokens)
    num_tokens = sum(len(tokens) + 1 for tokens in decoded.tokens)
    if (num_tokens, len(text), sha256_bytes(text)) != (receipt.tokens, receipt.bytes, receipt.text_sha256):
        raise ProofError("the decoded text is not the one that the receipt names")
    if fault := _length_fault(8 * len(bitstream), receipt.claimed_bits):
        raise ProofError(fault)
    return decoded.tokens


def _receipt_fault(receipt: Receipt, stepper: Stepper, tokenizer: Pieces, coded_bits: int) -> str:
    """Say why a receipt cannot be a proof's, whatever the bits decode to; empty if it can."""
    layout = receipt.layout
    if not receipt.ok:
        return f"the receipt tells of a proof that failed: {receipt.reason}"
    if not layout.document_ids:
        return "the receipt names no document: nothing is proved"
    if layout.plan.context > stepper.context or layout.bos_id != tokenizer.bos_id:
        return "the receipt is of another model: its windows or its BOS token are not this model's"
    stated = (receipt.documents, receipt.tokens, receipt.coded_bits)
    if stated != (len(layout.document_ids), layout.tokens, coded_bits):
        return "the receipt contradicts itself: its counts are not those of its layout and bitstream"
    if layout.tokens > TOKENS_PER_BIT * coded_bits:
        return f"the receipt claims {layout.tokens} tokens in {coded_bits} bits, which no text has"
    return ""


def _what_differs(made: dict[str, str], here: dict[str, str]) -> str:
    """List what was otherwise where a proof was made; empty if nothing was."""
    names = [name for name in {**made, **here} if made.get(name) != here.get(name)]
    listed = ", ".join(f"{name} {made.get(name, 'unknown')} (here {here.get(name, 'unknown')})" for name in names)
    return f"; it was made with {listed}" if listed else ""


def _half(progress: Progress | None, half: int) -> Progress | None:
    return progress and (lambda done, total: progress(half * total + done, 2 * total))


def _divergence(documents: Documents, layout: Layout, decoded: Decoded) -> str:
    """Say where decoded tokens first differ from the text, in the order of the bitstream; empty if nowhere."""
    for batch in layout.batches():
        firsts = [
            (_first_difference(documents.tokens[place], decoded.tokens[place]), documents.ids[place])
            for place in batch
            if not np.array_equal(documents.tokens[place], decoded.tokens[place])
        ]
        if firsts:
            position, document = min(firsts)
            return f"decoding left the text at document {document}, token {position}"
    return decoded.fault


def _first_difference(left: np.ndarray, right: np.ndarray) -> int:
    shared = min(len(left), len(right))
    different = np.flatnonzero(left[:shared] != right[:shared])
    return int(different[0]) if different.size else shared


def _length_fault(coded_bits: int, claimed_bits: float) -> str:
    if abs(coded_bits - claimed_bits) <= LENGTH_TOLERANCE * claimed_bits + LENGTH_SLACK_BITS:
        return ""
    return (
        f"the bitstream has {coded_bits:,} bits, the score claims {claimed_bits:,.0f}: "
        f"more than {LENGTH_TOLERANCE:.1%} + {LENGTH_SLACK_BITS} bits apart"
    )
