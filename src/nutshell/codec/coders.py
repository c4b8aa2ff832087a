"""Coders: from an array to bytes and back, each behind the same seam.

`ans` codes integers at the entropy of a fitted static model (models.py) with the asymmetric numeral system of the
constriction library. `brotli` and `lzma` compress the bytes of any array; `raw` keeps them. Every decoder knows what it
must produce and never produces more, whatever the payload says.
"""

import lzma
import math
from typing import Any, Protocol

import brotli
import constriction
import numpy as np
from jaxtyping import Int, Shaped

from nutshell.codec.fitting import fit
from nutshell.codec.models import (
    MAX_SYMBOLS,
    RowBells,
    StaticModel,
    TableReader,
    has_rows,
)
from nutshell.codec.transforms import Shape
from nutshell.errors import ArtifactError

_stream = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  (a compiled module without stubs)
CODE_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
_BROTLI_STEP = 1 << 16
_MAX_PLANES = 8
_CHUNK = 1 << 20  # symbols decoded at a time: constriction returns int32, which must not dwarf an int8 result


class Coder(Protocol):
    """One way from an array to bytes; an empty array is always no bytes, and never reaches a coder."""

    def encode(self, array: Shaped[np.ndarray, "..."]) -> bytes:
        """Compress."""
        ...

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
        """Restore.

        Raises:
            ArtifactError: the payload is not what `encode` makes of an array of this dtype and shape.
        """
        ...


class Ans:
    """Integer codes under a static model; rows along the first axis may differ in width."""

    def encode(self, array: Int[np.ndarray, "..."]) -> bytes:
        """Compress integers that span at most MAX_SYMBOLS values."""
        symbols, low = _symbols(array)
        fitted = fit(symbols, low)
        model, stack = fitted.model, _Stack()
        if isinstance(model.distribution, RowBells):
            assert fitted.classes is not None
            # What is to be read first goes on last.
            for number, frequencies in reversed(list(enumerate(model.distribution.by_class(model.support)))):
                stack.push(symbols[fitted.classes == number], frequencies)
            symbols, model = fitted.classes, model.distribution.classes
        stack.push(symbols, model.frequencies())
        return fitted.model.to_bytes() + stack.to_bytes()

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Int[np.ndarray, "..."]:
        """Restore."""
        reader = TableReader(payload)
        model = StaticModel.read(reader)
        low, high = model.support.low, model.support.low + model.support.size - 1
        if dtype.kind not in "iu" or low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise ArtifactError(f"a coded section holds integers from {low} to {high}, which {dtype} cannot")
        if not model.suits(shape):
            raise ArtifactError(f"a coded section of shape {list(shape)} cannot have such a model of its rows")
        stack = _Stack(payload[reader.position :])
        if isinstance(model.distribution, RowBells):
            array = np.empty((shape[0], math.prod(shape[1:])), dtype)
            classes = stack.pop(shape[0], model.distribution.classes.frequencies(), 0, np.dtype(np.uint8))
            for number, frequencies in enumerate(model.distribution.by_class(model.support)):
                members = np.flatnonzero(classes == number)
                codes = stack.pop(members.size * array.shape[1], frequencies, low, dtype)
                array[members] = codes.reshape(members.size, array.shape[1])
        else:
            array = stack.pop(math.prod(shape), model.frequencies(), low, dtype)
        if not stack.is_empty():
            raise ArtifactError("a coded section holds more than its codes")
        return array.reshape(shape)


def _symbols(array: Int[np.ndarray, "..."]) -> tuple[Int[np.ndarray, "R C"], int]:
    """Count codes from their minimum; one line a row where rows may have models of their own, else one line."""
    assert array.dtype.name in CODE_DTYPES, f"an entropy model is for {', '.join(CODE_DTYPES)}, got {array.dtype}"
    low = int(array.min())
    span = int(array.max()) - low + 1
    assert span <= MAX_SYMBOLS, f"integers span {span} values, an entropy model has at most {MAX_SYMBOLS}"
    lines = array.shape[0] if has_rows(array.shape) else 1
    return np.subtract(array, low, dtype=np.int64).astype(np.int32).reshape(lines, -1), low


class _Stack:
    """constriction's ANS coder with exact frequencies; its words are stored without the zero bytes at the end."""

    def __init__(self, stream: bytes = b"") -> None:
        if stream.endswith(b"\0"):
            raise ArtifactError("a coded section ends in padding")
        words = np.frombuffer(stream + bytes(-len(stream) % 4), "<u4")
        self._coder = _stream.stack.AnsCoder(words.astype(np.uint32))

    def push(self, symbols: Int[np.ndarray, "..."], frequencies: Int[np.ndarray, " N"]) -> None:
        if len(frequencies) > 1:  # one possible symbol is no information
            self._coder.encode_reverse(np.ascontiguousarray(symbols, np.int32).ravel(), _categorical(frequencies))

    def pop(self, count: int, frequencies: Int[np.ndarray, " N"], low: int, dtype: np.dtype) -> Int[np.ndarray, " N"]:
        codes = np.full(count, low, dtype)
        if len(frequencies) > 1:
            model = _categorical(frequencies)
            for start in range(0, count, _CHUNK):
                some = codes[start : start + _CHUNK]
                some[:] = self._coder.decode(model, some.size) + np.int64(low)
        return codes

    def is_empty(self) -> bool:
        return self._coder.is_empty()

    def to_bytes(self) -> bytes:
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _categorical(frequencies: Int[np.ndarray, " N"]) -> Any:
    """Hand over frequencies so that none is rounded.

    constriction gives one unit of 2^24 to each symbol and shares the rest in proportion to the floats it gets; what we
    pass is that rest exactly, so its factor of proportion is 1.
    """
    return _stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)


class Brotli:
    """Brotli at its highest quality, on the bytes of any array."""

    def encode(self, array: Shaped[np.ndarray, "..."]) -> bytes:
        """Compress."""
        return brotli.compress(array.tobytes(), quality=11)

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
        """Restore."""
        return _from_bytes(unbrotli(payload, max_bytes=_num_bytes(dtype, shape)), dtype, shape)


def unbrotli(payload: bytes, *, max_bytes: int) -> bytes:
    """Decompress at most `max_bytes`.

    Raises:
        ArtifactError: damaged, cut short, followed by something, or longer than that.
    """
    decompressor, parts, num_bytes = brotli.Decompressor(), [], 0
    pending = payload
    try:
        while not decompressor.is_finished():
            part = decompressor.process(pending, output_buffer_limit=_BROTLI_STEP)
            parts.append(part)
            num_bytes += len(part)
            if num_bytes > max_bytes:
                raise ArtifactError(f"a brotli stream holds more than the {max_bytes} bytes it should")
            if not part and decompressor.can_accept_more_data() and not decompressor.is_finished():
                raise ArtifactError("a brotli stream is cut short")
            pending = b""
    except brotli.error as error:
        raise ArtifactError("a brotli stream is damaged") from error
    return b"".join(parts)


class Lzma:
    """Raw LZMA2, on the bytes of any array; the dictionary is as large as the array, up to 16 MiB."""

    def encode(self, array: Shaped[np.ndarray, "..."]) -> bytes:
        """Compress."""
        return lzma.compress(array.tobytes(), format=lzma.FORMAT_RAW, filters=self._filters(array.nbytes))

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
        """Restore."""
        num_bytes = _num_bytes(dtype, shape)
        decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=self._filters(num_bytes))
        try:
            content = decompressor.decompress(payload, max_length=num_bytes + 1)
        except lzma.LZMAError as error:
            raise ArtifactError("an LZMA stream is damaged") from error
        if not decompressor.eof or decompressor.unused_data:
            raise ArtifactError("an LZMA stream is cut short, too long, or followed by something")
        return _from_bytes(content, dtype, shape)

    @staticmethod
    def _filters(num_bytes: int) -> list[dict[str, int]]:
        dictionary = 1 << min(max((num_bytes - 1).bit_length(), 12), 24)
        return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]


class Raw:
    """The bytes as they are."""

    def encode(self, array: Shaped[np.ndarray, "..."]) -> bytes:
        """Copy."""
        return array.tobytes()

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
        """Copy."""
        return _from_bytes(payload, dtype, shape)


def _num_bytes(dtype: np.dtype, shape: Shape) -> int:
    return math.prod(shape) * dtype.itemsize


def _from_bytes(content: bytes, dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
    if len(content) != _num_bytes(dtype, shape):
        raise ArtifactError(
            f"a section holds {len(content)} bytes, but {dtype} of shape {list(shape)} takes {_num_bytes(dtype, shape)}"
        )
    return np.frombuffer(content, dtype).reshape(shape).copy()


CODERS: dict[str, Coder] = {"ans": Ans(), "brotli": Brotli(), "lzma": Lzma(), "raw": Raw()}
