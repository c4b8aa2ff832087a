import numpy as np
import pytest

from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.errors import DataError
from text_samples import chapters, small_tokenizer


def test_training_is_deterministic_and_quiet(capfd):
    assert train_tokenizer(chapters(), vocab_size=512).model_bytes == small_tokenizer().model_bytes
    assert capfd.readouterr() == ("", "")


def test_pieces_hold_newlines_but_spaces_only_at_their_start():
    pieces = [small_tokenizer().decode(np.array([token])) for token in range(512)]
    assert {b"\n\n", b" ", b"  ", b" the"} <= set(pieces)
    assert all(b" " not in piece.lstrip(b" ") for piece in pieces)


def test_the_space_has_a_piece_even_if_the_text_has_none():
    tokenizer = train_tokenizer(["\u65e5\u672c\u8a9e".encode() * 5] * 5, vocab_size=266)
    assert len(tokenizer.encode(b" ")) == 1


def test_what_sentencepiece_cannot_train_on_splits_the_text():
    text = b"the cat sat on the mat\0the cat\xffthe cat \xe2\x96\x85 the cat \xe2\x96\x81 the cat " * 20
    tokenizer = train_tokenizer([text], vocab_size=285)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.pieces(tokenizer.encode(b"the cat")) == [b"the", b" cat"]


def test_a_sample_skips_passages():
    documents = [b"the cat sat on the mat " * 20, b"a dog ran to his house " * 20]
    sampled = train_tokenizer(documents, vocab_size=285, sample_every=2)
    assert sampled.model_bytes == train_tokenizer(documents[:1], vocab_size=285).model_bytes


@pytest.mark.parametrize(
    ("vocab_size", "message"),
    [
        (0, "vocab_size 0 is too small: control and byte tokens alone are 259$"),
        (271, "vocab_size 271 is too small: 259 control and byte tokens and the characters of this text need 272$"),
        (5000, r"vocab_size 5,000 is too large for this text, which supports \d+; take that or give more text"),
        (65_537, "vocab_size 65,537 is too large: a token has 16 bits, so at most 65,536"),
    ],
)
def test_vocabularies_that_do_not_fit(vocab_size, message):
    with pytest.raises(DataError, match=message):
        train_tokenizer([b"the cat sat on the mat and the dog ran\n"] * 20, vocab_size=vocab_size)


@pytest.mark.parametrize("documents", [[], [b"\xff\xfe\0"], [b"\n\n"]])
def test_nothing_to_learn_from(documents):
    with pytest.raises(DataError, match=r"^the tokenizer has no text to learn from"):
        train_tokenizer(documents, vocab_size=512)
