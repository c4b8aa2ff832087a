"""Coders: from an array to bytes and back, each behind the same seam.

`ans` codes integers at the entropy of a fitted static model (ans.py); `trellis8` and its like code those that follow a
trellis (trellis_coder.py). `brotli`, `lzma` and `zstd` compress the bytes of any array; `raw` keeps them. Every decoder
knows what it must produce and never produces more, whatever the payload says.
"""

import lzma
import math
from typing import Protocol

import brotli
import numpy as np
import zstandard
from jaxtyping import Shaped

from nutshell.codec.ans import Ans
from nutshell.codec.transforms import Shape
from nutshell.codec.trellis_code import POLYNOMIALS
from nutshell.codec.trellis_coder import TrellisAns
from nutshell.errors import ArtifactError

_BROTLI_STEP = 1 << 20  # what is left of the payload is copied at each step
_ZSTD_LEVEL, _ZSTD_SMALLEST_WINDOW_LOG = 22, 17


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


class Zstd:
    """Zstandard at its highest level, on the bytes of any array."""

    def encode(self, array: Shaped[np.ndarray, "..."]) -> bytes:
        """Compress."""
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _ZSTD_LEVEL, source_size=array.nbytes, write_content_size=False, write_checksum=False
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(array.tobytes())

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
        """Restore."""
        num_bytes = _num_bytes(dtype, shape)
        window = 1 << max(num_bytes.bit_length(), _ZSTD_SMALLEST_WINDOW_LOG)
        reader = zstandard.ZstdDecompressor(max_window_size=window).stream_reader(payload, read_across_frames=True)
        try:
            content = reader.read(num_bytes + 1)
        except zstandard.ZstdError as error:
            raise ArtifactError("a zstd stream is damaged") from error
        return _from_bytes(content, dtype, shape)


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


TRELLIS_CODERS = {states: f"trellis{states}" for states in POLYNOMIALS}
CODERS: dict[str, Coder] = {
    "ans": Ans(),
    "brotli": Brotli(),
    "lzma": Lzma(),
    "zstd": Zstd(),
    "raw": Raw(),
    **{name: TrellisAns(states) for states, name in TRELLIS_CODERS.items()},
}
