"""The text to score: whole documents as tokens, and how many bytes of the text each token stands for.

The targets of a document are its tokens and then a closing BOS (rule `charge_end`): its code length then pays for
saying where it ends, so that a decoder needs nothing else, and the documents' code lengths add up to the whole text's.
The closing BOS stands for zero bytes. Bytes belong to a position, not to a token: they come from decoding.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int

from nutshell.errors import DataError, LegalityError

Tokens = Int[np.ndarray, " T"]


class Pieces(Protocol):
    """What is needed of a tokenizer."""

    @property
    def bos_id(self) -> int:
        """The token that opens and closes a document."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        ...

    def pieces(self, tokens: Tokens) -> list[bytes]:
        """Return the bytes of each token of a document at its position; joined, they are the document."""
        ...


class Track(NamedTuple):
    """One sequence as the scorer walks it: target `t` is predicted from inputs up to and including `t`."""

    inputs: Tokens
    targets: Tokens
    byte_lengths: Tokens


@dataclass(frozen=True)
class Documents:
    """Whole documents, all of a text or some of it.

    Attributes:
        tokens: Each document's tokens, without BOS.
        byte_lengths: The bytes that each of those tokens stands for.
        ids: The position of each document in the text.
        tokenizer: What turns the tokens back into the text.
        text_bytes: Bytes of the whole text, also where these documents are only some of it.
        bounded: Whether the text says where documents begin; if not, all of it is one.
    """

    tokens: tuple[Tokens, ...]
    byte_lengths: tuple[Tokens, ...]
    ids: tuple[int, ...]
    tokenizer: Pieces
    text_bytes: int
    bounded: bool = True

    @classmethod
    def of_text(
        cls, tokens: Sequence[Tokens], tokenizer: Pieces, text_bytes: int, *, bounded: bool = True
    ) -> "Documents":
        """Measure all documents of a text by decoding them.

        Args:
            tokens: Each document's tokens, without BOS.
            tokenizer: What the documents were tokenized with.
            text_bytes: Bytes of the raw text, counted before it was tokenized.
            bounded: Whether the text says where documents begin.

        Raises:
            DataError: there is no text, or a document contains the BOS token.
            LegalityError: the tokens do not decode to as many bytes as the text has.
        """
        if not tokens or not text_bytes:
            raise DataError(f"{len(tokens)} documents of {text_bytes} bytes: nothing to score")
        for index, document in enumerate(tokens):
            if tokenizer.bos_id in document:
                raise DataError(f"document {index}: contains the BOS token {tokenizer.bos_id}; split documents at BOS")
        lengths = tuple(
            np.fromiter(map(len, tokenizer.pieces(document)), np.int32, len(document)) for document in tokens
        )
        decoded_bytes = sum(int(document.sum()) for document in lengths)
        if decoded_bytes != text_bytes:
            raise LegalityError(
                f"the tokens decode to {decoded_bytes} bytes, the text has {text_bytes}: "
                "score with the tokenizer and the manifest that the shards were built with"
            )
        return cls(tuple(tokens), lengths, tuple(range(len(tokens))), tokenizer, text_bytes, bounded)

    @property
    def num_bytes(self) -> int:
        """Bytes of these documents."""
        return sum(int(document.sum()) for document in self.byte_lengths)

    @property
    def num_targets(self) -> int:
        """Tokens to predict, closing BOS included."""
        return sum(len(document) + 1 for document in self.tokens)

    def bytes_per_token_in(self, row: int) -> float | None:
        """Give bytes per target of the stream up to its last whole row, as the field counts; None without a row."""
        lengths = self.stream().byte_lengths
        whole = len(lengths) // row * row
        return int(lengths[:whole].sum()) / whole if whole else None

    def text(self) -> bytes:
        """Decode these documents, joined in their order."""
        return decode_text(self.tokenizer, self.tokens)

    def take(self, places: Sequence[int]) -> "Documents":
        """Keep the documents at these places, in this order."""
        return replace(
            self,
            tokens=tuple(self.tokens[place] for place in places),
            byte_lengths=tuple(self.byte_lengths[place] for place in places),
            ids=tuple(self.ids[place] for place in places),
        )

    def sample(self, *, num_documents: int, max_tokens: int, seed: int = 0) -> "Documents":
        """Choose whole documents by a rule that anyone can repeat.

        Documents are taken in the order of SHA-256("seed:id"); one with more targets than what is left of `max_tokens`
        is passed over, which favours short documents when the limit binds.

        Raises:
            DataError: every document is longer than `max_tokens`.
        """
        order = sorted(range(len(self.ids)), key=lambda place: _draw(seed, self.ids[place]))
        chosen: list[int] = []
        left = max_tokens
        for place in order:
            cost = len(self.tokens[place]) + 1
            if len(chosen) < num_documents and cost <= left:
                chosen.append(place)
                left -= cost
        if not chosen:
            shortest = min(len(document) + 1 for document in self.tokens)
            raise DataError(f"no document fits {max_tokens} tokens: the shortest has {shortest}; raise the limit")
        return self.take(sorted(chosen))

    def tracks(self) -> list[Track]:
        """Lay out each document by itself: BOS first among the inputs, BOS last among the targets."""
        bos = np.array([self.tokenizer.bos_id])
        return [
            Track(np.concatenate([bos, tokens]), np.concatenate([tokens, bos]), np.append(lengths, 0))
            for tokens, lengths in zip(self.tokens, self.byte_lengths, strict=True)
        ]

    def stream(self) -> Track:
        """Lay out all documents as one stream, as the field's evaluators do: BOS between them, none after the last."""
        whole = [np.concatenate(parts)[:-1] for parts in zip(*self.tracks(), strict=True)]
        return Track(*whole)


def decode_text(tokenizer: Pieces, documents: Iterable[Tokens]) -> bytes:
    """Decode documents, each by itself, and join them."""
    return b"".join(piece for tokens in documents for piece in tokenizer.pieces(tokens))


def _draw(seed: int, document: int) -> bytes:
    return hashlib.sha256(f"{seed}:{document}".encode()).digest()
