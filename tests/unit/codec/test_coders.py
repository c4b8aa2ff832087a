import lzma

import brotli
import numpy as np
import pytest

import codec_arrays
from nutshell.codec.chain import decode, encode
from nutshell.codec.coders import CODERS, unbrotli
from nutshell.codec.models import Bell, Histogram, PlaneBells, StaticModel, Support
from nutshell.errors import ArtifactError

BOMB = bytes(50_000_000)
INT8 = np.dtype(np.int8)


def test_real_bytes_are_within_sixteen_bytes_of_the_entropy():
    codes = np.rint(codec_arrays.noise(20_000) / 0.4145).astype(np.int8)
    counts = np.bincount(codes.astype(int) + 128)
    counts = counts[counts > 0]
    entropy_bytes = float(counts @ np.log2(codes.size / counts)) / 8
    assert len(encode(codes, ("ans",))) == pytest.approx(entropy_bytes, rel=1e-4, abs=16)


def test_entropy_coding_beats_the_generic_coders_on_rows_of_many_widths():
    codes = codec_arrays.rows_of_many_widths().astype(np.int8)
    assert len(encode(codes, ("ans",))) < 0.93 * min(len(encode(codes, (name,))) for name in ("brotli", "lzma"))


@pytest.mark.parametrize(
    ("coder", "payload"),
    [
        ("brotli", brotli.compress(BOMB, quality=1)),
        ("lzma", lzma.compress(BOMB, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}])),
    ],
)
def test_a_bomb_is_refused_at_its_declared_size(coder, payload, monkeypatch):
    taken = []
    monkeypatch.setattr(np, "frombuffer", lambda content, *_: taken.append(len(content)))
    with pytest.raises(ArtifactError, match=r"more than the 1000 bytes|too long"):
        CODERS[coder].decode(payload, INT8, (1000,))
    assert not taken


@pytest.mark.parametrize("coder", ["brotli", "lzma", "raw"])
def test_a_stream_followed_by_something_is_refused(coder):
    payload = CODERS[coder].encode(np.zeros(1000, np.int8))
    with pytest.raises(ArtifactError):
        CODERS[coder].decode(payload + b"\1", INT8, (1000,))


def test_a_brotli_stream_followed_by_something_is_refused():
    with pytest.raises(ArtifactError, match="brotli stream"):
        unbrotli(brotli.compress(b"text") + b"more", max_bytes=100)


@pytest.mark.parametrize(
    ("payload", "dtype", "shape", "message"),
    [
        (StaticModel(Support(-1, 3), Bell(0, 8, 8, 9)).to_bytes(), np.uint8, (4,), "from -1 to 1, which uint8 cannot"),
        (
            StaticModel(Support(120, 9), Bell(0, 8, 8, 9)).to_bytes(),
            np.int8,
            (4,),
            "from 120 to 128, which int8 cannot",
        ),
        (StaticModel(Support(0, 3), Bell(0, 8, 8, 9)).to_bytes(), np.float16, (4,), "which float16 cannot"),
        (StaticModel(Support(0, 3), Bell(0, 8, 8, 9)).to_bytes() + b"\1\0", np.int8, (4,), "ends in padding"),
        (StaticModel(Support(0, 3), Bell(0, 8, 8, 9)).to_bytes() + b"\1" * 90, np.int8, (4,), "more than its codes"),
        (StaticModel(Support(0, 1), Histogram(b"a")).to_bytes() + b"\1", np.int8, (4,), "more than its codes"),
    ],
)
def test_a_payload_that_contradicts_itself_is_refused(payload, dtype, shape, message):
    with pytest.raises(ArtifactError, match=message):
        CODERS["ans"].decode(payload, np.dtype(dtype), shape)


@pytest.mark.parametrize("shape", [(64,), (8, 8), (2, 1 << 21), (8, 16)])
def test_a_model_of_rows_needs_rows_of_a_sensible_length(shape):
    classes = StaticModel(Support(0, 20), Bell(0, 8, 8, 9))
    payload = StaticModel(
        Support(0, 30), PlaneBells(Bell(0, 8, 8, 9), classes, StaticModel(Support(0, 1), Histogram(b"a")))
    ).to_bytes()
    with pytest.raises(ArtifactError, match="cannot have such a model of its rows"):
        CODERS["ans"].decode(payload, INT8, shape)


def test_codes_beyond_the_coder_are_a_programming_error():
    for array, message in [
        (np.array([0, 1 << 16]), "an entropy model is for"),
        (np.array([0, 1 << 16], np.int32), "span 65537 values"),
        (np.array([0.5], np.float32), "an entropy model is for"),
    ]:
        with pytest.raises(AssertionError, match=message):
            encode(array, ("ans",))


def test_decoding_goes_in_chunks_without_a_seam(monkeypatch):
    codes = codec_arrays.rows_of_many_widths()
    payload, flat_payload = encode(codes, ("ans",)), encode(codes.ravel(), ("ans",))
    monkeypatch.setattr("nutshell.codec.stack._CHUNK", 100)
    np.testing.assert_array_equal(decode(payload, ("ans",), codes.dtype, codes.shape), codes)
    np.testing.assert_array_equal(decode(flat_payload, ("ans",), codes.dtype, (codes.size,)), codes.ravel())
