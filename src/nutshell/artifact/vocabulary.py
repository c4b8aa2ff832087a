"""A tokenizer's model file in few bytes: what all SentencePiece models of one sort share is left out.

A model file is a list of pieces (text, score, type) and a tail of settings, as protocol buffer fields. In a byte-pair
model with byte fallback a score is the number of the merge, and the pieces of bytes are the 256 in order: only the
texts of the others and the tail say anything. A file of another sort is stored as it is. Fields and types:
SentencePiece's `sentencepiece_model.proto`.

The short form is, in order: the number of pieces; runs of (type, length) that add up to it; the texts of all pieces
but those of bytes, each ended by a zero byte, with U+2581 as the byte 1; the tail. Numbers are those of `ans` tables.
"""

import struct
from itertools import groupby
from typing import NamedTuple

from nutshell.codec.models import TableReader, unsigned_bytes
from nutshell.data.shards import MAX_VOCAB_SIZE
from nutshell.errors import ArtifactError

_NORMAL, _BYTE = 1, 6
_SPACE = "\u2581".encode()
_END, _SHORT_SPACE = b"\0", b"\1"
# Field numbers and wire types of the file, as protocol buffers write them.
_PIECE, _TEXT, _SCORE, _TYPE = 0x0A, 0x0A, 0x15, 0x18


class _Piece(NamedTuple):
    text: bytes
    kind: int


def shorten(model: bytes) -> bytes | None:
    """Give the short form of a model file; None where it is of a sort that has none."""
    try:
        pieces, tail = _read_pieces(model)
        runs = [(kind, len(list(group))) for kind, group in groupby(piece.kind for piece in pieces)]
        texts = b"".join(piece.text.replace(_SPACE, _SHORT_SPACE) + _END for piece in pieces if piece.kind != _BYTE)
        numbers = [len(pieces), *(number for run in runs for number in run)]
        short = b"".join(map(unsigned_bytes, numbers)) + texts + tail
        return short if restore(short) == model else None
    except ArtifactError:
        return None


def restore(short: bytes) -> bytes:
    """Give the model file of a short form.

    Raises:
        ArtifactError: it is none.
    """
    reader = TableReader(short)
    num_pieces = reader.unsigned()
    if num_pieces > MAX_VOCAB_SIZE:
        raise ArtifactError(f"a tokenizer of {num_pieces} pieces, at most {MAX_VOCAB_SIZE} are allowed")
    kinds: list[int] = []
    while len(kinds) < num_pieces:
        kind, length = reader.unsigned(), reader.unsigned()
        if not 1 <= kind < 128 or not 1 <= length <= num_pieces - len(kinds):
            raise ArtifactError("the pieces of a tokenizer do not add up")
        kinds += length * [kind]
    rest = short[reader.position :]
    *texts, tail = rest.split(_END, sum(kind != _BYTE for kind in kinds))
    if len(texts) != sum(kind != _BYTE for kind in kinds):
        raise ArtifactError("the texts of a tokenizer are cut short")
    return b"".join([*_written(kinds, texts), tail])


def _written(kinds: list[int], texts: list[bytes]) -> list[bytes]:
    """Write the pieces out, each with the score and the text that its place gives it."""
    spelt, pieces = iter(texts), []
    num_normal = num_bytes = 0
    for kind in kinds:
        if kind == _BYTE:
            text = f"<0x{num_bytes:02X}>".encode()
            num_bytes += 1
        else:
            text = next(spelt).replace(_SHORT_SPACE, _SPACE)
        score = 0.0
        if kind == _NORMAL:
            score = -float(num_normal)
            num_normal += 1
        fields = bytes([_TEXT]) + unsigned_bytes(len(text)) + text + struct.pack("<Bf", _SCORE, score)
        if kind != _NORMAL:
            fields += bytes([_TYPE, kind])
        pieces.append(bytes([_PIECE]) + unsigned_bytes(len(fields)) + fields)
    return pieces


def _read_pieces(model: bytes) -> tuple[list[_Piece], bytes]:
    """Read the pieces at the front of a model file, and what follows them."""
    reader, pieces = TableReader(model), []
    while model[reader.position : reader.position + 1] == bytes([_PIECE]):
        reader.take(1)
        fields = TableReader(reader.take(reader.unsigned()))
        if fields.take(1) != bytes([_TEXT]):
            raise ArtifactError("a piece without a text")
        text = fields.take(fields.unsigned())
        fields.take(struct.calcsize("<Bf"))
        kind = fields.take(2)[1] if len(fields.payload) > fields.position else _NORMAL
        pieces.append(_Piece(text, kind))
    return pieces, model[reader.position :]
