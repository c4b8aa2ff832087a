import hashlib

import pytest

from nutshell.data.split import SplitText, choose_side
from text_samples import ListSource

WORDS = [b"document %d" % number for number in range(2000)]


def sides_of(documents, val_frac=0.1, seed=0):
    text = SplitText(ListSource(documents), val_frac=val_frac, seed=seed)
    return {document.content: document.side for document in text}, text.counts


def test_sides_and_bytes_are_counted():
    sides, counts = sides_of(WORDS)
    for side in ("train", "val"):
        chosen = [content for content in WORDS if sides[content] == side]
        assert counts.documents[side] == len(chosen)
        assert counts.bytes[side] == sum(map(len, chosen))
    assert counts.documents["val"] == pytest.approx(200, abs=40)


def test_side_depends_on_content_and_seed_alone():
    sides, _ = sides_of(WORDS)
    fewer, _ = sides_of(WORDS[::-3])
    assert fewer.items() <= sides.items()
    other, _ = sides_of(WORDS, seed=1)
    assert other != sides


def test_larger_fraction_only_adds_documents_to_validation():
    small, _ = sides_of(WORDS, val_frac=0.1)
    large, _ = sides_of(WORDS, val_frac=0.2)
    assert {content for content in WORDS if small[content] == "val"} < {c for c in WORDS if large[c] == "val"}


def test_duplicates_and_empty_documents_are_dropped_and_counted():
    documents = [b"a", b"", b"b", b"a", b" \n\t", b"a", b"a "]
    text = SplitText(ListSource(documents), val_frac=0.5, seed=0)
    for _ in range(2):  # every reading counts afresh
        assert [document.content for document in text] == [b"a", b"b", b"a "]
        assert (text.counts.empty, text.counts.duplicates) == (2, 2)


def test_split_is_pinned():
    """Stored scores name this split: it must never move."""
    sides, _ = sides_of(WORDS)
    val = b"".join(content for content in WORDS if sides[content] == "val")
    assert hashlib.sha256(val).hexdigest()[:16] == "fc97205acd399d4b"
    assert choose_side(hashlib.sha256(b"x").digest(), val_frac=1 - 1e-9, seed=0) == "val"
