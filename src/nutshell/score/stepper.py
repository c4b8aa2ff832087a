"""One token at a time through a plan of windows: the loop that encoder and decoder share.

The order is the point. `walk` asks the model for a distribution, fixes it as an integer table, and only then asks its
`exchange` which tokens came: the encoder looks them up in the text, the decoder reads them from the bitstream. The
model is fed what `exchange` returned and nothing else, so it cannot know a token before it has committed to its
probability, and the decoder, which has no text, runs the very same code.

Documents run as rows of a batch; a row whose token is BOS has ended and is dropped. All rows are at the same position,
so they change windows together: the batch begins again and is fed the tokens that the new window overlaps. The
bitstream holds the tokens batch by batch, within a batch position by position, within a position row by row.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float32, Int, Int64

from nutshell.errors import ProofError
from nutshell.score.coding import Decoder, Encoder, UnfitError, frequency_table
from nutshell.score.predictor import Progress, Stepper
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan

Table = Float32[np.ndarray, "B V"]
Places = Int64[np.ndarray, " B"]
NextTokens = Int64[np.ndarray, " B"]
Exchange = Callable[[Table, Places, int], NextTokens]
"""Given a table per row, the rows' places among all documents, and the position: the token that came, per row."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The order of computation, which encoder and decoder must share, and what tells a decoder that it went astray.

    Attributes:
        rows: Documents that run side by side.
        plan: Windows, as in the score.
        bos_id: The token that opens and closes a document.
        document_ids: Positions of the documents in the text, in the order of the bitstream.
        document_crcs: CRC-32 of each document's tokens. No decoded token depends on them.
        tokens: Targets in all.
    """

    rows: Annotated[int, msgspec.Meta(ge=1)]
    plan: WindowPlan
    bos_id: int
    document_ids: tuple[int, ...]
    document_crcs: tuple[int, ...]
    tokens: int

    def __post_init__(self) -> None:
        if len(self.document_ids) != len(self.document_crcs):
            raise ProofError(f"{len(self.document_crcs)} checksums for {len(self.document_ids)} documents")

    @classmethod
    def of(cls, documents: Documents, plan: WindowPlan, rows: int) -> "Layout":
        """Describe how documents, in their present order, are coded."""
        return cls(
            rows=rows,
            plan=plan,
            bos_id=documents.tokenizer.bos_id,
            document_ids=documents.ids,
            document_crcs=tuple(_crc(tokens) for tokens in documents.tokens),
            tokens=documents.num_targets,
        )

    def batches(self) -> list[range]:
        """Return the places of the documents of each batch."""
        count = len(self.document_ids)
        return [range(start, min(start + self.rows, count)) for start in range(0, count, self.rows)]


class Decoded(NamedTuple):
    """Tokens of each document as far as decoding came, and what stopped it (empty: nothing did)."""

    tokens: list[Int64[np.ndarray, " T"]]
    fault: str


def encode(stepper: Stepper, documents: Documents, layout: Layout, progress: Progress | None = None) -> bytes:
    """Code documents with the model's distributions; return the bitstream.

    Raises:
        ProofError: the model gave something that is not a distribution.
    """
    coder = Encoder()
    targets = [track.targets for track in documents.tracks()]

    def look_up(table: Table, places: Places, position: int) -> NextTokens:
        tokens = np.array([targets[place][position] for place in places], dtype=np.int64)
        coder.put(tokens, table)
        return tokens

    walk(stepper, layout, look_up, progress)
    return coder.finish()


def decode(stepper: Stepper, bitstream: bytes, layout: Layout, progress: Progress | None = None) -> Decoded:
    """Read documents back with the model alone; stop at the first sign that the decoder has gone astray."""
    documents: list[list[int]] = [[] for _ in layout.document_ids]

    def read(table: Table, places: Places, position: int) -> NextTokens:
        tokens = coder.take(table)
        for place, token in zip(places.tolist(), tokens.tolist(), strict=True):
            if token != layout.bos_id:
                documents[place].append(token)
            elif _crc(np.array(documents[place])) != layout.document_crcs[place]:
                raise ProofError(f"document {layout.document_ids[place]} ended at token {position} as another text")
        return tokens

    fault = ""
    try:
        coder = Decoder(bitstream)
        walk(stepper, layout, read, progress)
    except ProofError as error:
        fault = str(error)
    return Decoded([np.array(tokens, dtype=np.int64) for tokens in documents], fault)


def walk(stepper: Stepper, layout: Layout, exchange: Exchange, progress: Progress | None) -> None:
    """Run all documents from their opening to their closing BOS.

    Raises:
        ProofError: the model gave something that is not a distribution, or documents do not end where they should.
    """
    done = 0
    for batch in layout.batches():
        for coded in _steps(stepper, layout, batch, exchange):
            done += coded
            if done > layout.tokens:
                raise ProofError(f"document {layout.document_ids[batch.start]} or one beside it does not end")
            if progress:
                progress(done, layout.tokens)


def _steps(stepper: Stepper, layout: Layout, batch: range, exchange: Exchange) -> Iterator[int]:
    """Run one batch; yield the number of tokens of each step."""
    alive = np.arange(len(batch))
    columns = [np.full(len(batch), layout.bos_id, dtype=np.int64)]  # inputs by position; stale where a row has ended
    for window in layout.plan.unbounded():
        stepper.begin(len(alive))
        fed = np.stack(columns[window.start : window.score_from + 1], axis=1)[alive]
        for position in range(window.score_from, window.stop):
            places = alive + batch.start
            table = _commit(stepper, fed, layout, places, position)
            tokens = exchange(table, places, position)
            yield len(tokens)
            going = tokens != layout.bos_id
            alive = alive[going]
            if not alive.size:
                return
            if not going.all():
                stepper.keep(np.flatnonzero(going))
            columns.append(columns[-1].copy())
            columns[-1][alive] = tokens[going]
            fed = columns[-1][alive][:, None]


def _commit(stepper: Stepper, fed: np.ndarray, layout: Layout, places: Places, position: int) -> Table:
    """Ask for the distribution of the next token of each row and fix it, before anybody looks at that token."""
    log_probs = stepper.feed(fed)
    assert log_probs.shape == (len(fed), stepper.vocab_size), f"stepper returned {log_probs.shape}"
    try:
        return frequency_table(log_probs)
    except UnfitError as error:
        document = layout.document_ids[places[error.row]]
        raise ProofError(f"document {document}, token {position}: {error.fault}") from error


def _crc(tokens: Int[np.ndarray, " T"]) -> int:
    return zlib.crc32(tokens.astype("<i4").tobytes())
