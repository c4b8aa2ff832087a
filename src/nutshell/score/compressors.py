"""What general compressors reach on the same text: the bar that a language model has to clear.

Each runs at its strongest standard setting over the whole text at once, with a window that spans it where the format
allows (brotli's ends at 16 MB, xz's at 64 MB).
"""

import lzma

import brotli
import zstandard

from nutshell.errors import DataError

ZSTD_LEVEL = 22
ZSTD_MIN_WINDOW_LOG, ZSTD_MAX_WINDOW_LOG = 10, 31


def compress_all(text: bytes) -> dict[str, float]:
    """Return bits per byte of the whole text by compressor, headers and checksums included.

    Raises:
        DataError: the text is empty.
    """
    if not text:
        raise DataError("the text is empty: nothing to compress")
    sizes = {
        "xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        "brotli -11": len(brotli.compress(text, quality=11, lgwin=24)),
        "zstd -22": len(_zstd(text)),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def _zstd(text: bytes) -> bytes:
    window_log = min(max(len(text).bit_length(), ZSTD_MIN_WINDOW_LOG), ZSTD_MAX_WINDOW_LOG)
    settings = zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVEL, source_size=len(text), window_log=window_log)
    return zstandard.ZstdCompressor(compression_params=settings).compress(text)
