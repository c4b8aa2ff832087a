"""constriction's coder of asymmetric numerals, fed with exact frequencies: what is pushed last is popped first."""

from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np
from jaxtyping import Int, Int32

from nutshell.errors import ArtifactError

_stream = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  (a compiled module without stubs)
_CHUNK = 1 << 20  # symbols decoded at a time: constriction returns int32, which must not dwarf an int8 result


class Stack:
    """Symbols under frequencies; the words are stored without the zero bytes at the end."""

    def __init__(self, stream: bytes = b"") -> None:
        if stream.endswith(b"\0"):
            raise ArtifactError("a coded section ends in padding")
        words = np.frombuffer(stream + bytes(-len(stream) % 4), "<u4")
        self._coder = _stream.stack.AnsCoder(words.astype(np.uint32))

    def push(self, symbols: Int[np.ndarray, "..."], frequencies: Int[np.ndarray, " N"]) -> None:
        """Put symbols, numbered from 0, on the stack."""
        if len(frequencies) > 1:  # one possible symbol is no information
            self._coder.encode_reverse(np.ascontiguousarray(symbols, np.int32).ravel(), _categorical(frequencies))

    def pop(self, count: int, frequencies: Int[np.ndarray, " N"], low: int, dtype: np.dtype) -> Int[np.ndarray, " N"]:
        """Take symbols off, as integers from `low`."""
        codes = np.full(count, low, dtype)
        for some, symbols in self._popped(codes, frequencies):
            some[:] = symbols + np.int64(low)
        return codes

    def pop_into(self, codes: Int32[np.ndarray, " N"], frequencies: Int[np.ndarray, " N"]) -> None:
        """Take as many symbols off as there is room for, numbered from 0."""
        codes[:] = 0
        for some, symbols in self._popped(codes, frequencies):
            some[:] = symbols

    def _popped(
        self, codes: Int[np.ndarray, " N"], frequencies: Int[np.ndarray, " N"]
    ) -> Iterator[tuple[Int[np.ndarray, " N"], Int32[np.ndarray, " N"]]]:
        """Give the symbols of each part of some codes; one possible symbol is no information."""
        if len(frequencies) > 1:
            model = _categorical(frequencies)
            for start in range(0, len(codes), _CHUNK):
                some = codes[start : start + _CHUNK]
                yield some, self._coder.decode(model, len(some))

    def check_empty(self) -> None:
        """Make sure that nothing is left.

        Raises:
            ArtifactError: something is.
        """
        if not self._coder.is_empty():
            raise ArtifactError("a coded section holds more than its codes")

    def to_bytes(self) -> bytes:
        """Give the stack as bytes."""
        return self._coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _categorical(frequencies: Int[np.ndarray, " N"]) -> Any:
    """Hand over frequencies so that none is rounded.

    constriction gives one unit of 2^24 to each symbol and shares the rest in proportion to the floats it gets; what we
    pass is that rest exactly, so its factor of proportion is 1.
    """
    return _stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)
