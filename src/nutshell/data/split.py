"""Which documents stay, and on which side of the split: decided by their content alone.

A document's side is drawn from its hash and a seed, so it does not change when other documents come or go, and a
document that occurs twice cannot be on both sides. Only its first occurrence stays. A document without a visible
character says nothing and is dropped.
"""

import hashlib
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

import msgspec

Side = Literal["train", "val"]
SIDES: tuple[Side, Side] = ("train", "val")


class Source(Protocol):
    """Documents that can be read again and again, in the same order."""

    @property
    def description(self) -> str:
        """Where the text is from."""
        ...

    @property
    def licence(self) -> str:
        """Terms of use; empty where they are the user's own affair."""
        ...

    def __iter__(self) -> Iterator[bytes]: ...


class Document(NamedTuple):
    """A document that stays, with its SHA-256."""

    side: Side
    digest: bytes
    content: bytes


class Counts(msgspec.Struct):
    """What one reading of the source came across."""

    empty: int = 0
    duplicates: int = 0
    documents: dict[Side, int] = msgspec.field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    bytes: dict[Side, int] = msgspec.field(default_factory=lambda: dict.fromkeys(SIDES, 0))


class SplitText:
    """A source without its empty and duplicate documents, each assigned to a side; every iteration counts afresh."""

    def __init__(self, source: Source, *, val_frac: float, seed: int) -> None:
        self.counts = Counts()
        self._source = source
        self._val_frac = val_frac
        self._seed = seed

    def __iter__(self) -> Iterator[Document]:
        self.counts = counts = Counts()
        seen: set[bytes] = set()
        for content in self._source:
            if not content.strip():
                counts.empty += 1
                continue
            digest = hashlib.sha256(content).digest()
            if digest in seen:
                counts.duplicates += 1
                continue
            seen.add(digest)
            side = choose_side(digest, val_frac=self._val_frac, seed=self._seed)
            counts.documents[side] += 1
            counts.bytes[side] += len(content)
            yield Document(side, digest, content)


def choose_side(digest: bytes, *, val_frac: float, seed: int) -> Side:
    """Draw a side from a document's digest."""
    draw = int.from_bytes(hashlib.sha256(b"%d:" % seed + digest).digest()[:8], "big")
    return "val" if draw < val_frac * 2**64 else "train"
