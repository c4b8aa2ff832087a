"""A tokenizer in short: the very file comes back, or there is no short form."""

import random

import pytest
import sentencepiece

from nutshell.artifact.vocabulary import restore, shorten
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.errors import ArtifactError

TEXT = " ".join(f"{word} {number}" for number in range(400) for word in ("alpha", "beta", "gamma", "d\u00e9lta"))


@pytest.fixture(scope="module")
def model():
    return train_tokenizer([TEXT.encode()], vocab_size=320).model_bytes


def test_the_very_file_comes_back_from_a_fraction(model):
    short = shorten(model)
    assert restore(short) == model
    assert len(short) < 0.15 * len(model)  # 256 of the 320 pieces are those of bytes


def test_a_file_of_another_sort_has_no_short_form(model, tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split()), model_prefix=str(tmp_path / "m"), vocab_size=40, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    assert shorten((tmp_path / "m.model").read_bytes()) is None  # its scores are not the numbers of merges
    assert shorten(model[:-100]) != shorten(model)
    assert shorten(b"") == b"\0"


def test_any_damage_gives_another_file_or_one_error(model):
    rng = random.Random(0)
    short = shorten(model)
    refused = 0
    for _ in range(300):
        place = rng.randrange(min(40, len(short)))
        damaged = short[:place] + rng.randbytes(1) + short[place + 1 :]
        try:
            restore(damaged)
        except ArtifactError:
            refused += 1
    assert refused > 10
    with pytest.raises(ArtifactError, match="at most 65536 are allowed"):
        restore(b"\xff\xff\xff\x7f")
    with pytest.raises(ArtifactError, match="texts of a tokenizer are cut short"):
        restore(short[:20])
