"""Documents that are on both sides of a split, found by their tokens: a score on such a document says nothing.

A document is compared whole, so one that shares only a passage with another is not found. Millions of documents are
first reduced to their length and two of their tokens; only where those agree are the documents themselves hashed.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from nutshell.data.shards import TokenStream


class Shared(NamedTuple):
    """A validation document that is a training document too; both count from 0."""

    val: int
    train: int


def shared_documents(train: TokenStream, val: TokenStream, bos_id: int) -> list[Shared]:
    """List the validation documents that are in the training text, each with the first place where it is.

    Documents without a token are left out: they hold no text.
    """
    train_side, val_side = _Side(train, bos_id), _Side(val, bos_id)
    first: dict[bytes, int] = {}
    for index in train_side.like(val_side):
        first.setdefault(train_side.digest(index), index)
    candidates = ((index, first.get(val_side.digest(index))) for index in val_side.like(train_side))
    return [Shared(index, match) for index, match in candidates if match is not None]


class _Side:
    """The documents of one side: where each begins and ends, without its BOS, and a key that equal ones share."""

    def __init__(self, tokens: TokenStream, bos_id: int) -> None:
        self._tokens = tokens
        bos = tokens.find(bos_id)
        # Text before the first BOS is a document, as it is elsewhere; where a BOS opens the text there is none.
        opening = 1 if len(bos) and bos[0] == 0 else 0
        self._starts = np.concatenate([[0], bos + 1])[opening:]
        self._stops = np.append(bos, len(tokens))[opening:]
        self._keys = self._make_keys()

    def like(self, other: "_Side") -> list[int]:
        """List the documents whose key is one of the other side's."""
        filled = self._stops > self._starts
        return np.flatnonzero(np.isin(self._keys, other._keys) & filled).tolist()

    def digest(self, index: int) -> bytes:
        tokens = self._tokens[int(self._starts[index]) : int(self._stops[index])]
        return hashlib.sha256(tokens.astype("<u2").tobytes()).digest()

    def _make_keys(self) -> Int64[np.ndarray, " D"]:
        lengths = self._stops - self._starts
        third, last = (
            self._tokens.take(np.minimum(self._starts + offset, len(self._tokens) - 1)).astype(np.int64)
            for offset in (lengths // 3, np.maximum(lengths - 1, 0))
        )
        return (lengths << 32) + (third << 16) + last
