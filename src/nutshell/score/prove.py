"""The proof of a score: a bitstream of the claimed length that decodes to the text.

`prove` encodes documents with the predictor's own distributions, decodes the bitstream with the predictor alone, and
compares. If the text comes back byte for byte and the bitstream is as long as the score says, then no distribution can
have depended on the token that it was for, none can have been unnormalised, and no target or byte was miscounted: a
decoder that has no text would have gone astray. What learns from the text does so in the decoder too.

Documents are coded in pieces (`layout.py`), each for itself; those that a journal holds are not coded again. Encoder
and decoder must compute bit-identical distributions: same code (`walk.py`), same layout, same machine and versions,
which the receipt records.
"""

import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from jaxtyping import Int

from nutshell.errors import LegalityError, ProofError
from nutshell.files import sha256_bytes
from nutshell.score.layout import PLAIN, Layout, Shape
from nutshell.score.ledger import Score
from nutshell.score.predictor import OnlinePredictor, Progress
from nutshell.score.text import Documents, Pieces, decode_text
from nutshell.score.walk import Advance, Decoded, decode, encode
from nutshell.units import bits_from_nats

LENGTH_TOLERANCE = 1e-3
"""Largest relative difference between coded and claimed bits."""
LENGTH_SLACK_BITS = 64
"""Allowed on top for each piece: the range coder ends on a whole number of 32-bit words."""
TOKENS_PER_BIT = 64
"""No text is so predictable: a receipt that claims more would keep a decoder at work without end."""

DocumentTokens = Mapping[int, Int[np.ndarray, " T"]]
"""Tokens of documents by their place in the layout."""


class Coder(Protocol):
    """Codes pieces; gives each with its number as it is done."""

    def encode(
        self, layout: Layout, pieces: Mapping[int, DocumentTokens], advance: Advance
    ) -> Iterator[tuple[int, bytes]]:
        """Code the documents of each piece."""
        ...

    def decode(self, layout: Layout, pieces: Mapping[int, bytes], advance: Advance) -> Iterator[tuple[int, Decoded]]:
        """Read the bits of each piece."""
        ...


class CoderHere:
    """Codes one piece after the other in this process, each with a predictor that has seen none of the others."""

    def __init__(self, predictor_of: Callable[[Layout], OnlinePredictor]) -> None:
        self._predictor_of = predictor_of

    def encode(
        self, layout: Layout, pieces: Mapping[int, DocumentTokens], advance: Advance
    ) -> Iterator[tuple[int, bytes]]:
        """Code the documents of each piece."""
        batches = layout.batches()
        for number, tokens in pieces.items():
            yield number, encode(self._predictor_of(layout), layout, batches[number], tokens, advance)

    def decode(self, layout: Layout, pieces: Mapping[int, bytes], advance: Advance) -> Iterator[tuple[int, Decoded]]:
        """Read the bits of each piece."""
        batches = layout.batches()
        for number, bits in pieces.items():
            yield number, decode(self._predictor_of(layout), layout, batches[number], bits, advance)


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
        text_sha256: Of the bytes of the documents, joined in the order of the text.
        decoded_sha256: The same of what was decoded.
        bitstream_sha256: Of the bitstream: the pieces, one behind the other.
        piece_bytes: Bytes of each piece.
        layout: Order of computation, and which documents.
        environment: Machine and versions, as the caller gave them.
        encode_seconds: Time to encode what the journal did not hold.
        decode_seconds: Time to decode what the journal did not hold.
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
    piece_bytes: tuple[int, ...]
    layout: Layout
    environment: dict[str, str]
    encode_seconds: float
    decode_seconds: float


class Proof(NamedTuple):
    """A bitstream and what it proves."""

    bitstream: bytes
    receipt: Receipt


def prove(
    coder: Coder,
    documents: Documents,
    score: Score,
    *,
    environment: dict[str, str],
    shape: Shape = PLAIN,
    journal: Callable[[Layout], MutableMapping[str, bytes]] = lambda layout: {},
    progress: Progress | None = None,
) -> Proof:
    """Encode documents, decode them again with the predictor alone, and compare text and length with the claim.

    A proof that fails is a result: its receipt says `ok = False` and why. Only a predictor or a score that cannot be
    put to the proof at all raises.

    Args:
        coder: Codes with the predictor that the score's strategy names.
        documents: What to prove: a sample of the scored documents, or all.
        score: The claim.
        environment: Machine and versions, for the receipt.
        shape: How the proof is cut up.
        journal: Gives what keeps the pieces that are done, by name; what it holds already is not done again.
        progress: Told how far the work is; each token counts twice, encoded and decoded.

    Raises:
        ProofError: the predictor's values are not distributions.
        LegalityError: the score makes no claim about one of the documents, or none about these alone, or one that no
            predictor can meet.
    """
    documents = shape.arrange(documents)
    claimed_bits = _claimed_bits(score, documents, alone=shape.in_order)
    layout = Layout.of(documents, score.strategy, shape)
    batches = layout.batches()
    own = [{place: documents.tokens[place] for batch in piece for place in batch} for piece in batches]
    done = journal(layout)
    advance = _meter(progress, 2 * layout.tokens)

    clock = [time.perf_counter()]
    for number, bits in coder.encode(layout, _left(own, done, "coded", advance), advance):
        done[f"coded-{number}"] = bits
    coded = [done[f"coded-{number}"] for number in range(len(own))]
    clock.append(time.perf_counter())
    left = _left(own, done, "read", advance)
    read, fault = dict(enumerate(documents.tokens)), ""
    for number, decoded in coder.decode(layout, {number: coded[number] for number in left}, advance):
        read.update(decoded.tokens)
        fault = fault or decoded.fault
        if _first_difference(own[number], decoded.tokens) is None and not decoded.fault:
            done[f"read-{number}"] = b""
    clock.append(time.perf_counter())

    bitstream, text = b"".join(coded), _text(documents.tokenizer, documents.ids, dict(enumerate(documents.tokens)))
    reason = _divergence(documents, batches, read) or fault or _length_fault(coded, claimed_bits)
    receipt = Receipt(
        ok=not reason,
        reason=reason,
        documents=len(documents.ids),
        tokens=layout.tokens,
        bytes=len(text),
        claimed_bits=claimed_bits,
        coded_bits=8 * len(bitstream),
        overhead=8 * len(bitstream) / claimed_bits - 1,
        text_sha256=sha256_bytes(text),
        decoded_sha256=sha256_bytes(_text(documents.tokenizer, documents.ids, read)),
        bitstream_sha256=sha256_bytes(bitstream),
        piece_bytes=tuple(len(bits) for bits in coded),
        layout=layout,
        environment=environment,
        encode_seconds=clock[1] - clock[0],
        decode_seconds=clock[2] - clock[1],
    )
    return Proof(bitstream, receipt)


def verify(
    coder: Coder,
    tokenizer: Pieces,
    proof: Proof,
    *,
    environment: dict[str, str],
    progress: Progress | None = None,
) -> dict[int, np.ndarray]:
    """Decode a proof in a process that has no text; return the documents' tokens by their position in the text.

    Args:
        coder: Codes with the predictor that the receipt's layout names.
        tokenizer: What turns its tokens into bytes.
        proof: A bitstream and its receipt, which may come from a stranger.
        environment: Machine and versions of this process, to say what differs if decoding goes astray.
        progress: Told how far the work is.

    Raises:
        ProofError: the receipt tells of a failed proof or of another model, or contradicts itself; the bitstream is
            not the receipt's, does not decode to the text, or is not as long as claimed.
    """
    bitstream, receipt = proof
    layout = receipt.layout
    if sha256_bytes(bitstream) != receipt.bitstream_sha256:
        raise ProofError("the bitstream is not the one that the receipt was written for: one of them was altered")
    if fault := _receipt_fault(receipt, tokenizer, 8 * len(bitstream)):
        raise ProofError(fault)
    stops = np.cumsum([0, *receipt.piece_bytes]).tolist()
    coded = {number: bitstream[stops[number] : stops[number + 1]] for number in range(len(layout.pieces))}
    read: dict[int, np.ndarray] = {}
    for _, decoded in coder.decode(layout, coded, _meter(progress, layout.tokens)):
        if decoded.fault:
            raise ProofError(decoded.fault + what_differs(receipt.environment, environment))
        read.update(decoded.tokens)
    text = _text(tokenizer, layout.document_ids, read)
    num_tokens = sum(len(tokens) + 1 for tokens in read.values())
    if (num_tokens, len(text), sha256_bytes(text)) != (receipt.tokens, receipt.bytes, receipt.text_sha256):
        raise ProofError("the decoded text is not the one that the receipt names")
    if fault := _length_fault(list(coded.values()), receipt.claimed_bits):
        raise ProofError(fault)
    return {document: read[place] for place, document in enumerate(layout.document_ids)}


def what_differs(made: dict[str, str], here: dict[str, str]) -> str:
    """List what was otherwise where a proof was made; empty if nothing was."""
    names = [name for name in {**made, **here} if made.get(name) != here.get(name)]
    listed = ", ".join(f"{name} {made.get(name, 'unknown')} (here {here.get(name, 'unknown')})" for name in names)
    return f"; it was made with {listed}" if listed else ""


def _claimed_bits(score: Score, documents: Documents, *, alone: bool) -> float:
    """Give what a score claims for documents; it may have to be about these `alone`.

    Raises:
        LegalityError: it makes no such claim, or none that a code can meet.
    """
    if alone and sorted(score.document_ids) != sorted(documents.ids):
        raise LegalityError(
            f"what '{score.strategy.kind}' claims for a document depends on all before it: prove what was scored, "
            "or score the sample by itself"
        )
    claimed_bits = bits_from_nats(score.claimed_nats(documents.ids))
    if claimed_bits <= 0:
        raise LegalityError(
            f"the score claims {claimed_bits:g} bits for {len(documents.ids)} documents: no code is that short"
        )
    return claimed_bits


def _left(
    own: list[dict[int, np.ndarray]], journal: Mapping[str, bytes], what: str, advance: Advance
) -> dict[int, DocumentTokens]:
    """Give the pieces that a journal does not hold yet; count those that it holds as done."""
    left: dict[int, DocumentTokens] = {}
    for number, tokens in enumerate(own):
        if f"{what}-{number}" in journal:
            advance(sum(len(document) + 1 for document in tokens.values()))
        else:
            left[number] = tokens
    return left


def _meter(progress: Progress | None, total: int) -> Advance:
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, total)

    return advance


def _text(tokenizer: Pieces, document_ids: tuple[int, ...], tokens: DocumentTokens) -> bytes:
    """Decode documents, joined in the order of the text."""
    places = sorted(tokens, key=lambda place: document_ids[place])
    return decode_text(tokenizer, [tokens[place] for place in places])


def _receipt_fault(receipt: Receipt, tokenizer: Pieces, coded_bits: int) -> str:
    """Say why a receipt cannot be a proof's, whatever the bits decode to; empty if it can."""
    layout = receipt.layout
    if not receipt.ok:
        return f"the receipt tells of a proof that failed: {receipt.reason}"
    if not layout.document_ids:
        return "the receipt names no document: nothing is proved"
    if layout.bos_id != tokenizer.bos_id:
        return "the receipt is of another model: its BOS token is not this model's"
    stated = (receipt.documents, receipt.tokens, receipt.coded_bits)
    if stated != (len(layout.document_ids), layout.tokens, coded_bits):
        return "the receipt contradicts itself: its counts are not those of its layout and bitstream"
    if len(receipt.piece_bytes) != len(layout.pieces) or 8 * sum(receipt.piece_bytes) != coded_bits:
        return "the receipt contradicts itself: its pieces are not those of its layout and bitstream"
    if layout.tokens > TOKENS_PER_BIT * coded_bits:
        return f"the receipt claims {layout.tokens} tokens in {coded_bits} bits, which no text has"
    return ""


def _divergence(documents: Documents, batches: list[list[range]], read: DocumentTokens) -> str:
    """Say where decoded tokens first differ from the text, in the order of the bitstream; empty if nowhere."""
    for batch in (batch for piece in batches for batch in piece):
        own = {place: documents.tokens[place] for place in batch}
        if first := _first_difference(own, read):
            position, place = first
            return f"decoding left the text at document {documents.ids[place]}, token {position}"
    return ""


def _first_difference(own: DocumentTokens, read: DocumentTokens) -> tuple[int, int] | None:
    """Give the first position where documents differ, and the place of the document; None if they do not."""
    return min(
        (
            (_first_other(own[place], read[place]), place)
            for place in own
            if not np.array_equal(own[place], read[place])
        ),
        default=None,
    )


def _first_other(left: np.ndarray, right: np.ndarray) -> int:
    shared = min(len(left), len(right))
    different = np.flatnonzero(left[:shared] != right[:shared])
    return int(different[0]) if different.size else shared


def _length_fault(coded: list[bytes], claimed_bits: float) -> str:
    coded_bits = 8 * sum(map(len, coded))
    slack = LENGTH_SLACK_BITS * len(coded)
    if abs(coded_bits - claimed_bits) <= LENGTH_TOLERANCE * claimed_bits + slack:
        return ""
    return (
        f"the bitstream has {coded_bits:,} bits, the score claims {claimed_bits:,.0f}: "
        f"more than {LENGTH_TOLERANCE:.1%} + {slack} bits apart"
    )
