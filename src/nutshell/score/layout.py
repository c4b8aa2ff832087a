"""In which order a proof codes documents, and what it tells a decoder about them beforehand."""

import zlib
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Int

from nutshell.errors import ProofError
from nutshell.score.ledger import Strategy
from nutshell.score.text import Documents

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Threads = Annotated[int, msgspec.Meta(ge=1, le=1024)]
"""Of the arithmetic; a stranger's file may not ask for more."""


class Shape(NamedTuple):
    """How a proof is cut up.

    Attributes:
        in_order: Whether documents run in the order of the text, one after the other, all in one piece.
        rows: Else: documents that run side by side, those of similar length together.
        piece_tokens: Targets that a piece has at least; each is coded for itself, and kept when it is done.
        threads: Threads of the arithmetic.
    """

    in_order: bool = False
    rows: int = 64
    piece_tokens: int = 65_536
    threads: int = 1

    def arrange(self, documents: Documents) -> Documents:
        """Put documents into the order in which they are coded."""
        places = range(len(documents.ids))
        if self.in_order:
            return documents.take(sorted(places, key=lambda place: documents.ids[place]))
        return documents.take(sorted(places, key=lambda place: -len(documents.tokens[place])))


PLAIN = Shape()


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The order of computation, which encoder and decoder must share, and what tells a decoder that it went astray.

    Attributes:
        strategy: How the text was scored; it says what predicts each token.
        rows: Documents that run side by side, a batch.
        pieces: Documents of each piece.
        threads: Threads of the arithmetic, which rounds differently with another number.
        bos_id: The token that opens and closes a document.
        document_ids: Positions of the documents in the text, in the order of the pieces.
        document_crcs: CRC-32 of each document's tokens. No decoded token depends on them.
        tokens: Targets in all. The rate of what learns from the text may follow it.
    """

    strategy: Strategy
    rows: AtLeastOne
    pieces: tuple[AtLeastOne, ...]
    threads: Threads
    bos_id: int
    document_ids: tuple[int, ...]
    document_crcs: tuple[int, ...]
    tokens: int

    def __post_init__(self) -> None:
        if len(self.document_ids) != len(self.document_crcs):
            raise ProofError(f"{len(self.document_crcs)} checksums for {len(self.document_ids)} documents")
        if sum(self.pieces) != len(self.document_ids):
            raise ProofError(f"pieces of {sum(self.pieces)} documents, of {len(self.document_ids)} that are named")

    @classmethod
    def of(cls, documents: Documents, strategy: Strategy, shape: Shape) -> "Layout":
        """Describe how documents, in their present order, are coded."""
        rows = 1 if shape.in_order else shape.rows
        lengths = [len(tokens) + 1 for tokens in documents.tokens]
        return cls(
            strategy=strategy,
            rows=rows,
            pieces=(len(lengths),) if shape.in_order else tuple(_pieces(lengths, rows, shape.piece_tokens)),
            threads=shape.threads,
            bos_id=documents.tokenizer.bos_id,
            document_ids=documents.ids,
            document_crcs=tuple(crc(tokens) for tokens in documents.tokens),
            tokens=documents.num_targets,
        )

    def batches(self) -> list[list[range]]:
        """Return the places of the documents of each batch, of each piece."""
        starts = [sum(self.pieces[:number]) for number in range(len(self.pieces))]
        return [
            [range(first, min(first + self.rows, start + count)) for first in range(start, start + count, self.rows)]
            for start, count in zip(starts, self.pieces, strict=True)
        ]


def _pieces(lengths: list[int], rows: int, least: int) -> Iterator[int]:
    """Count the documents of each piece: whole batches, until it is large enough."""
    count = tokens = 0
    for first in range(0, len(lengths), rows):
        batch = lengths[first : first + rows]
        count, tokens = count + len(batch), tokens + sum(batch)
        if tokens >= least or first + rows >= len(lengths):
            yield count
            count = tokens = 0


def crc(tokens: Int[np.ndarray, " T"]) -> int:
    """Give the checksum of a document's tokens."""
    return zlib.crc32(tokens.astype("<i4").tobytes())
