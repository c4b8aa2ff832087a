"""SentencePiece, made exact: any bytes go in and the same bytes come out, position by position.

SentencePiece works on Unicode text and writes a space as U+2581, and models published by others may normalise the text.
So each span of text is encoded, decoded and compared. A span that does not come back is cut in two, down to single
characters, and those are spelt with the 256 byte tokens. Bytes that are not UTF-8, and a literal U+2581, are spelt so
at once.

The bytes of a token depend on its neighbour in one case only: a model that adds a dummy prefix writes a space in front
of each document that the text does not have.

Source: Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226.
"""

import re
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Int32

from nutshell import files
from nutshell.data.shards import MAX_VOCAB_SIZE, Tokens
from nutshell.errors import DataError

_SPACE = "\u2581"
# Bytes that are not UTF-8 decode to lone surrogates (PEP 383).
_SPELT_IN_BYTES = re.compile(f"([\udc80-\udcff{_SPACE}]+)")
# SentencePiece takes about 100 bytes of memory a character; longer text is encoded in spans of this many.
_SPAN_CHARS = 1 << 18


class Tokenizer:
    """A SentencePiece model with byte fallback.

    Attributes:
        model_bytes: the content of the `.model` file.
        sha256: its hash.
        vocab_size: number of tokens, at most 65,536.
        bos_id: the token that starts every document.
    """

    def __init__(self, model_bytes: bytes) -> None:
        """Load a model.

        Raises:
            DataError: not a SentencePiece model, or not one that can carry every text.
        """
        self.model_bytes = model_bytes
        self.sha256 = files.sha256_bytes(model_bytes)
        try:
            self._load()
        except (RuntimeError, UnicodeDecodeError) as error:
            raise DataError("not a SentencePiece model, or a damaged one; copy it again") from error

    @classmethod
    def from_file(cls, path: Path) -> "Tokenizer":
        """Load a `.model` file.

        Raises:
            DataError: the file cannot be read, or as for the class; the message names the file.
        """
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def encode(self, document: bytes) -> Tokens:
        """Tokenize a whole document, without the BOS that stands before it in a shard."""
        tokens: list[int] = []
        for text in _SPELT_IN_BYTES.split(document.decode("utf-8", "surrogateescape")):
            for start in range(0, len(text), _SPAN_CHARS):
                tokens += self._encode_span(text[start : start + _SPAN_CHARS], at_start=not tokens)
        return np.array(tokens, dtype=np.uint16)

    def decode(self, tokens: Tokens) -> bytes:
        """Give back the text of tokens that begin where a document begins."""
        return b"".join(self.pieces(tokens))

    def pieces(self, tokens: Tokens) -> list[bytes]:
        """Give the bytes that each token adds to the text; BOS and the other control tokens add none.

        The tokens begin where a document begins, and each BOS among them begins another one.
        """
        return self._pieces(tokens.tolist(), at_start=True)

    def byte_lengths(self, tokens: Tokens) -> Int32[np.ndarray, " N"]:
        """Count the bytes of each of `pieces(tokens)`, fast enough for billions."""
        lengths = self._num_bytes[tokens]
        if self._adds_space:
            first = np.flatnonzero(np.concatenate([[True], lengths[:-1] == 0])[: len(tokens)])
            lengths[first] -= self._spaced[tokens[first]]
        return lengths

    def _pieces(self, tokens: list[int], *, at_start: bool) -> list[bytes]:
        pieces = [self._bytes[token] for token in tokens]
        if self._adds_space:
            for index, token in enumerate(tokens):
                starts_document = not self._bytes[tokens[index - 1]] if index else at_start
                if starts_document and self._starts_with_space[token]:
                    pieces[index] = pieces[index][1:]
        return pieces

    def _encode_span(self, text: str, *, at_start: bool) -> list[int]:
        content = text.encode("utf-8", "surrogateescape")
        if _SPELT_IN_BYTES.match(text):
            return [self._byte_ids[byte] for byte in content]
        # Inside a document, the space that the model adds can only stand for one that the text has.
        tokens = self._model.encode(text if at_start or not self._adds_space else text.removeprefix(" "))
        if b"".join(self._pieces(tokens, at_start=at_start)) == content:
            return tokens
        if len(text) == 1:
            return [self._byte_ids[byte] for byte in content]
        middle = len(text) // 2
        cut = max(text.find(" ", middle), middle)
        left = self._encode_span(text[:cut], at_start=at_start)
        return left + self._encode_span(text[cut:], at_start=False)

    def _load(self) -> None:
        if not self.model_bytes:
            raise DataError("empty where a SentencePiece model is needed; copy it again")
        self._model = model = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        self.vocab_size: int = model.vocab_size()
        self.bos_id: int = model.bos_id()
        self._byte_ids = [model.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise DataError(f"a tokenizer of {self.vocab_size:,} tokens, where shards can hold {MAX_VOCAB_SIZE:,}")
        if self.bos_id < 0:
            raise DataError("a tokenizer without a BOS token, which must start every document; use another one")
        if not all(model.is_byte(token) for token in self._byte_ids):
            raise DataError("a tokenizer without byte fallback, which cannot carry every text; use another one")
        if model.is_unknown(model.piece_to_id(_SPACE)):
            raise DataError("a tokenizer without a token for the space, whose bytes cannot be told; use another one")
        sample = "".join(model.encode("a", out_type=str))
        if sample.endswith(_SPACE):
            raise DataError("a tokenizer that adds a space behind each document; use another one")
        self._adds_space = sample.startswith(_SPACE)
        self._bytes = [self._bytes_of(token) for token in range(self.vocab_size)]
        self._starts_with_space = [model.id_to_piece(token).startswith(_SPACE) for token in range(self.vocab_size)]
        self._num_bytes = np.array([len(piece) for piece in self._bytes], dtype=np.int32)
        self._spaced = np.array(self._starts_with_space, dtype=np.int32)

    def _bytes_of(self, token: int) -> bytes:
        if self._model.is_byte(token):
            return bytes([int(self._model.id_to_piece(token)[1:-1], 16)])
        if self._model.is_control(token) or self._model.is_unknown(token) or self._model.is_unused(token):
            return b""
        return self._model.id_to_piece(token).replace(_SPACE, " ").encode()
