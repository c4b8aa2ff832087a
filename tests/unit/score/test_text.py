import numpy as np
import pytest

from nutshell.errors import DataError, LegalityError
from nutshell.score.text import Documents
from score_twins import BOS, ByteTokenizer, documents_of


def tokens_of(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8).astype(np.uint16)


def test_a_document_ends_with_a_target_of_no_bytes():
    (track,) = documents_of(b"ab").tracks()
    assert track.inputs.tolist() == [BOS, 97, 98]
    assert track.targets.tolist() == [97, 98, BOS]
    assert track.byte_lengths.tolist() == [1, 1, 0]


def test_the_stream_is_the_fields():
    """All documents joined, targets 1..n-1: the first BOS is no target and nothing closes the last document."""
    documents = documents_of(b"ab", b"", b"c")
    whole = np.array([BOS, 97, 98, BOS, BOS, 99])
    stream = documents.stream()
    assert stream.inputs.tolist() == whole[:-1].tolist()
    assert stream.targets.tolist() == whole[1:].tolist()
    assert stream.byte_lengths.tolist() == [1, 1, 0, 0, 1]
    assert documents.num_targets == len(stream.targets) + 1


def test_bytes_per_token_as_the_field_counts_them_end_with_a_whole_row():
    documents = documents_of(b"ab", b"", b"c")  # targets of 1, 1, 0, 0, 1 bytes
    assert documents.bytes_per_token_in(5) == 3 / 5
    assert documents.bytes_per_token_in(2) == 2 / 4
    assert documents.bytes_per_token_in(6) is None


def test_bytes_belong_to_a_position():
    """A tokenizer with a dummy prefix: token 0 is ` a`, and at the start of a document the space is not in the text."""

    class Prefixed(ByteTokenizer):
        def pieces(self, tokens):
            return [b"a" if position == 0 else b" a" for position in range(len(tokens))]

    documents = Documents.of_text([np.zeros(3, np.uint16), np.zeros(1, np.uint16)], Prefixed(), len(b"a a a" + b"a"))
    assert [track.byte_lengths.tolist() for track in documents.tracks()] == [[1, 2, 2, 0], [1, 0]]
    assert documents.text() == b"a a aa"


@pytest.mark.parametrize("text_bytes", [2, 4])
def test_bytes_that_are_not_the_texts_are_refused(text_bytes):
    with pytest.raises(LegalityError, match=f"the tokens decode to 3 bytes, the text has {text_bytes}"):
        Documents.of_text([tokens_of(b"abc")], ByteTokenizer(), text_bytes)


def test_bos_inside_a_document_is_refused():
    with pytest.raises(DataError, match="document 1: contains the BOS token 256"):
        Documents.of_text([tokens_of(b"a"), np.array([97, BOS], np.uint16)], ByteTokenizer(), 2)


@pytest.mark.parametrize("tokens", [[], [tokens_of(b"")]])
def test_no_text_is_refused(tokens):
    with pytest.raises(DataError, match="documents of 0 bytes: nothing to score"):
        Documents.of_text(tokens, ByteTokenizer(), 0)


def test_take_keeps_what_belongs_together():
    documents = documents_of(b"a", b"bb", b"ccc").take([2, 0])
    assert documents.ids == (2, 0)
    assert documents.text() == b"ccca"
    assert (documents.num_bytes, documents.text_bytes, documents.num_targets) == (4, 6, 6)
    assert documents.take([0]).ids == (2,)


def test_a_sample_is_whole_bounded_and_repeatable():
    documents = documents_of(*(b"x" * (n % 17) for n in range(60)))
    sample = documents.sample(num_documents=10, max_tokens=80, seed=3)
    assert sample.ids == documents.sample(num_documents=10, max_tokens=80, seed=3).ids
    assert sample.ids != documents.sample(num_documents=10, max_tokens=80, seed=4).ids
    assert list(sample.ids) == sorted(set(sample.ids))
    assert sample.num_targets <= 80
    assert all(len(sample.tokens[place]) == document % 17 for place, document in enumerate(sample.ids))
    assert len(documents.sample(num_documents=10, max_tokens=10_000).ids) == 10


def test_a_smaller_sample_is_part_of_a_larger_one():
    documents = documents_of(*([b"text"] * 30))
    small = documents.sample(num_documents=5, max_tokens=1000)
    assert set(small.ids) < set(documents.sample(num_documents=12, max_tokens=1000).ids)


def test_the_draw_is_pinned():
    """A declared sample must be the same documents next year."""
    assert documents_of(*([b"text"] * 30)).sample(num_documents=4, max_tokens=1000).ids == (15, 18, 20, 25)


def test_a_limit_below_every_document_is_refused():
    with pytest.raises(DataError, match="no document fits 3 tokens: the shortest has 5; raise the limit"):
        documents_of(b"long document", b"text").sample(num_documents=1, max_tokens=3)
