"""Small real data for tests that need a tokenizer or a data set: a few chapters of the bundled corpus."""

import functools
import io
import itertools

import sentencepiece

from nutshell.data.bundled import BundledCorpus
from nutshell.data.tokenizer import Tokenizer
from nutshell.data.tokenizer_training import train_tokenizer


class ListSource:
    """Documents from a list, as `build` wants them."""

    description = "a list"
    licence = ""

    def __init__(self, documents: list[bytes]):
        self.documents = documents

    def __iter__(self):
        return iter(self.documents)


@functools.cache
def chapters(count: int = 20) -> list[bytes]:
    return list(itertools.islice(BundledCorpus(), count))


@functools.cache
def small_tokenizer() -> Tokenizer:
    return train_tokenizer(chapters(), vocab_size=512)


@functools.cache
def foreign_model(lines: tuple[str, ...] = (), **settings) -> bytes:
    """A model as SentencePiece makes it by default, which normalises and adds a dummy prefix."""
    model = io.BytesIO()
    settings = {"model_type": "bpe", "vocab_size": 480, "byte_fallback": True, "minloglevel": 2} | settings
    lines = lines or b"".join(chapters(8)).decode().split("\n")
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **settings)
    return model.getvalue()
