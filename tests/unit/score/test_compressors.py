import lzma

import brotli
import numpy as np
import pytest
import zstandard

from nutshell.errors import DataError
from nutshell.score import compressors


def test_three_names_and_the_strongest_setting_of_each():
    text = b" ".join(b"%d green bottles hanging on the wall" % n for n in range(1000))
    rates = compressors.compress_all(text)
    assert list(rates) == ["xz -9e", "brotli -11", "zstd -22"]
    assert rates["xz -9e"] == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
    assert rates["brotli -11"] == 8 * len(brotli.compress(text, quality=11, lgwin=24)) / len(text)
    assert rates["zstd -22"] <= 8 * len(zstandard.compress(text, 22)) / len(text)


def test_noise_does_not_compress():
    noise = np.random.default_rng(0).bytes(20_000)
    assert all(8.0 < rate < 8.1 for rate in compressors.compress_all(noise).values())


def test_every_window_spans_the_text():
    """The same 300 kB of noise twice is found only by a window that reaches all the way back."""
    noise = np.random.default_rng(0).bytes(300_000)
    assert all(rate < 4.02 for rate in compressors.compress_all(noise + noise).values())


def test_no_text_is_refused():
    with pytest.raises(DataError, match="the text is empty"):
        compressors.compress_all(b"")
