"""One token at a time through a text: the loop that encoder and decoder share.

The order is the point. `walk` asks the predictor for a distribution, fixes it as an integer table, and only then asks
its `exchange` which tokens came: the encoder looks them up in the text, the decoder reads them from the bits. The
predictor is told what `exchange` returned and nothing else, so it cannot know a token before it has committed to its
probability, and the decoder, which has no text, runs the very same code.

Documents run as rows of a batch; a row whose token is BOS has ended and is dropped. The bits of a piece hold its tokens
batch by batch, within a batch position by position, within a position row by row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from nutshell.errors import ProofError
from nutshell.score.coding import Decoder, Encoder, UnfitError, frequency_table
from nutshell.score.layout import Layout, crc
from nutshell.score.predictor import OnlinePredictor

Table = Float32[np.ndarray, "B V"]
Places = Int64[np.ndarray, " B"]
NextTokens = Int64[np.ndarray, " B"]
Exchange = Callable[[Table, Places, int], NextTokens]
"""Given a table per row, the rows' places among all documents, and the position: the token that came, per row."""

Advance = Callable[[int], None]
"""Told how many tokens more are done."""


class Decoded(NamedTuple):
    """Tokens of each document of a piece as far as decoding came, and what stopped it (empty: nothing did)."""

    tokens: dict[int, Int64[np.ndarray, " T"]]
    fault: str


def encode(
    predictor: OnlinePredictor,
    layout: Layout,
    piece: Sequence[range],
    tokens: Mapping[int, Int[np.ndarray, " T"]],
    advance: Advance | None = None,
) -> bytes:
    """Code the documents of a piece, given by place, with the predictor's distributions.

    Raises:
        ProofError: the predictor gave something that is not a distribution.
    """
    coder = Encoder()
    targets = {place: np.append(own, layout.bos_id).astype(np.int64) for place, own in tokens.items()}

    def look_up(table: Table, places: Places, position: int) -> NextTokens:
        came = np.array([targets[place][position] for place in places.tolist()])
        coder.put(came, table)
        return came

    walk(predictor, layout, piece, look_up, advance)
    return coder.finish()


def decode(
    predictor: OnlinePredictor, layout: Layout, piece: Sequence[range], bits: bytes, advance: Advance | None = None
) -> Decoded:
    """Read a piece back with the predictor alone; stop at the first sign that the decoder has gone astray."""
    documents: dict[int, list[int]] = {place: [] for batch in piece for place in batch}

    def read(table: Table, places: Places, position: int) -> NextTokens:
        came = coder.take(table)
        for place, token in zip(places.tolist(), came.tolist(), strict=True):
            if token != layout.bos_id:
                documents[place].append(token)
            elif crc(np.array(documents[place])) != layout.document_crcs[place]:
                raise ProofError(f"document {layout.document_ids[place]} ended at token {position} as another text")
        return came

    fault = ""
    try:
        coder = Decoder(bits)
        walk(predictor, layout, piece, read, advance)
    except ProofError as error:
        fault = str(error)
    return Decoded({place: np.array(tokens, dtype=np.int64) for place, tokens in documents.items()}, fault)


def walk(
    predictor: OnlinePredictor, layout: Layout, piece: Sequence[range], exchange: Exchange, advance: Advance | None
) -> None:
    """Run all documents of a piece from their opening to their closing BOS.

    Raises:
        ProofError: the predictor gave something that is not a distribution, or documents do not end where they should.
    """
    done = 0
    for batch in piece:
        alive = np.array(batch, dtype=np.int64)
        predictor.begin(len(alive))
        position = 0
        while alive.size:
            _, table = commit(predictor, [layout.document_ids[place] for place in alive], position)
            came = exchange(table, alive, position)
            done += len(came)
            if done > layout.tokens:
                raise ProofError(f"document {layout.document_ids[batch.start]} or one beside it does not end")
            predictor.tell(came)
            going = came != layout.bos_id
            alive = alive[going]
            if alive.size < len(came) and alive.size:
                predictor.keep(np.flatnonzero(going))
            position += 1
            if advance:
                advance(len(came))


def commit(
    predictor: OnlinePredictor, document_ids: Sequence[int], position: int
) -> tuple[Float[np.ndarray, "B V"], Table]:
    """Ask for the distribution of the next token of each row and fix it, before anybody looks at that token.

    Raises:
        ProofError: it is none; the message names document and position.
    """
    log_probs = predictor.predict()
    shape = (len(document_ids), predictor.vocab_size)
    assert log_probs.shape == shape, f"predictor returned {log_probs.shape}"
    try:
        return log_probs, frequency_table(log_probs)
    except UnfitError as error:
        raise ProofError(f"document {document_ids[error.row]}, token {position}: {error.fault}") from error
