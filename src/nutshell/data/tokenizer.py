"""SentencePiece, made exact: any bytes go in and the same bytes come out, position by position.

SentencePiece works on Unicode text, writes a space as U+2581, and models published by others may normalise. So every
span is encoded, decoded and compared; a span that does not come back is cut in two, down to single characters, and
what is left goes to the 256 byte tokens. Bytes that are not UTF-8, and a literal U+2581, go there at once.

The bytes of a token depend on the one before it in one case only: a model that adds a dummy prefix writes a space in
front of every document that the text does not have.

Source: Kudo and Richardson 2018 (https://arxiv.org/abs/1808.06226).
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from nutshell.data.shards import MAX_VOCAB_SIZE, Tokens
from nutshell.errors import DataError

_SPACE = "\u2581"
# Bytes that are not UTF-8 decode to lone surrogates (PEP 383); U+2581 would come back as a space.
_UNTOKENIZABLE = re.compile(f"([\udc80-\udcff{_SPACE}]+)")
# SentencePiece takes about 100 bytes of memory a character; longer text is encoded in spans of this many.
_SPAN_CHARS = 1 << 18


class Tokenizer:
    """A SentencePiece model with byte fallback."""

    def __init__(self, model_bytes: bytes) -> None:
        """Load a model.

        Raises:
            DataError: not a SentencePiece model, or one that cannot carry every text.
        """
        self.model_bytes = model_bytes
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except RuntimeError as error:
            raise DataError("the tokenizer is not a SentencePiece model, or it is damaged") from error
        self.vocab_size: int = self._model.vocab_size()
        self.bos_id: int = self._model.bos_id()
        self.sha256 = hashlib.sha256(model_bytes).hexdigest()
        self._byte_ids = [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        self._check()
        self._adds_space = self._model.id_to_piece(self._model.encode("a")[0]).startswith(_SPACE)
        self._bytes = [self._bytes_of(token) for token in range(self.vocab_size)]
        self._is_boundary = [not content for content in self._bytes]

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Load a `.model` file.

        Raises:
            DataError: it cannot be read, or cannot be used; the message names the file.
        """
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def encode(self, document: bytes) -> Tokens:
        """Tokenize a whole document, without the BOS that shards put in front of it."""
        tokens: list[int] = []
        for text in _UNTOKENIZABLE.split(document.decode("utf-8", "surrogateescape")):
            for start in range(0, len(text), _SPAN_CHARS):
                tokens += self._encode_span(text[start : start + _SPAN_CHARS], at_start=not tokens)
        return np.array(tokens, dtype=np.uint16)

    def decode(self, tokens: Tokens) -> bytes:
        """Give back the bytes of tokens that begin where a document begins; BOS says where the next one does."""
        return b"".join(self.pieces(tokens))

    def pieces(self, tokens: Tokens) -> list[bytes]:
        """Give the bytes that each position adds to the text; BOS and other control tokens add none.

        The first token is taken for the start of a document, unless it is BOS itself.
        """
        ids = tokens.tolist()
        pieces = [self._bytes[token] for token in ids]
        if self._adds_space:
            for index, token in enumerate(ids):
                if pieces[index].startswith(b" ") and (index == 0 or self._is_boundary[ids[index - 1]]):
                    pieces[index] = self._bytes[token][1:]
        return pieces

    def _encode_span(self, text: str, *, at_start: bool) -> Iterator[int]:
        content = text.encode("utf-8", "surrogateescape")
        if not _UNTOKENIZABLE.match(text):
            tokens = self._model.encode(text)
            pieces = self.pieces(np.array(tokens, dtype=np.uint16))
            if self._adds_space and not at_start and tokens:
                pieces[0] = self._bytes[tokens[0]]
            if b"".join(pieces) == content:
                yield from tokens
                return
            if len(text) > 1:
                middle = len(text) // 2
                yield from self._encode_span(text[:middle], at_start=at_start)
                yield from self._encode_span(text[middle:], at_start=False)
                return
        yield from (self._byte_ids[byte] for byte in content)

    def _bytes_of(self, token: int) -> bytes:
        if self._model.is_byte(token):
            return bytes([self._byte_ids.index(token)])
        if self._model.is_control(token) or self._model.is_unknown(token) or self._model.is_unused(token):
            return b""
        return self._model.id_to_piece(token).replace(_SPACE, " ").encode()

    def _check(self) -> None:
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise DataError(f"the tokenizer has {self.vocab_size:,} tokens, shards hold at most {MAX_VOCAB_SIZE:,}")
        if self.bos_id < 0:
            raise DataError("the tokenizer has no BOS token, which starts every document")
        if not all(self._model.is_byte(token) for token in self._byte_ids):
            raise DataError("the tokenizer has no byte fallback, so it cannot carry every text")
