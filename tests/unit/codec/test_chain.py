import numpy as np
import pytest

from nutshell.codec.chain import decode, encode
from nutshell.errors import ArtifactError


@pytest.mark.parametrize("chain", [("zip",), ("shuffle",), ("ans", "shuffle"), ("zip", "ans"), ("raw", "raw")])
def test_an_unknown_chain_is_refused_by_name(chain):
    parts = (
        "transforms shuffle, bits, transpose, bitplanes, sort_rows, then one of ans, brotli, lzma, zstd, raw, trellis"
    )
    with pytest.raises(ArtifactError, match=f"this version has {parts}"):
        decode(b"", chain, np.dtype(np.int8), (0,))


def test_an_empty_array_takes_no_bytes_and_refuses_any():
    for chain in (("ans",), ("shuffle", "brotli"), ("lzma",), ("raw",)):
        assert encode(np.zeros((3, 0), np.int16), chain) == b""
        with pytest.raises(ArtifactError, match="has 1 bytes, but must have none"):
            decode(b"x", chain, np.dtype(np.int16), (3, 0))


def test_bytes_are_little_endian_whatever_the_array_is():
    codes = np.array([1, 256], ">u2")
    assert encode(codes, ("raw",)) == bytes([1, 0, 0, 1])
    assert encode(codes, ("shuffle", "raw")) == bytes([1, 0, 0, 1])


def test_a_transform_twice_is_refused_before_anything_is_decoded():
    chain = ("sort_rows", "sort_rows", "raw")
    with pytest.raises(ArtifactError, match="a transform twice"):
        decode(b"", chain, np.dtype(np.uint8), (1 << 20,))
