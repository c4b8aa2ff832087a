"""Bitstreams that every later version must read, and that the entropy coder writes to the byte on every machine.

If a pin can no longer be read, artifacts break: raise the version of the format. If it is only no longer what is
written, because a model is fitted in another way, `PYTHONPATH=tests python tests/golden/test_bitstreams.py` renews the
pins. What brotli, LZMA and the manifest compress to belongs to their libraries: of these only reading is pinned.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import ans_reference
import codec_arrays
from nutshell.artifact.container import Section, pack_container, unpack_container
from nutshell.codec.chain import decode, encode
from nutshell.codec.trellis_code import POLYNOMIALS

PINS = Path(__file__).with_name("bitstreams.json")
ANS = {name: array for name, array in codec_arrays.INTEGERS.items() if name != "maximal entropy"}
GENERIC = [("brotli",), ("lzma",), ("zstd",), ("raw",), ("shuffle", "brotli"), ("shuffle", "lzma")]


def pins():
    return json.loads(PINS.read_text())


@pytest.mark.parametrize("name", ANS)
def test_pinned_codes_are_read(name):
    pinned, array = bytes.fromhex(pins()["ans"][name]), ANS[name]
    np.testing.assert_array_equal(decode(pinned, ("ans",), array.dtype, array.shape), array)
    if array.size:
        assert ans_reference.decode(pinned, array.shape) == array.ravel().tolist()


@pytest.mark.parametrize("name", ANS)
def test_the_same_bytes_are_written_as_ever(name):
    assert encode(ANS[name], ("ans",)).hex() == pins()["ans"][name]


@pytest.mark.parametrize("states", POLYNOMIALS)
def test_pinned_levels_are_read_and_written_as_ever(states):
    pinned, levels = bytes.fromhex(pins()["trellis"][str(states)]), codec_arrays.levels(states)
    np.testing.assert_array_equal(decode(pinned, (f"trellis{states}",), levels.dtype, levels.shape), levels)
    assert ans_reference.decode_trellis(pinned, levels.shape, *POLYNOMIALS[states]) == levels.ravel().tolist()
    assert encode(levels, (f"trellis{states}",)) == pinned


@pytest.mark.parametrize("chain", GENERIC)
def test_generic_chains_read_the_pinned_bytes(chain):
    array = codec_arrays.scales()
    pinned = bytes.fromhex(pins()["generic"]["+".join(chain)])
    np.testing.assert_array_equal(decode(pinned, chain, array.dtype, array.shape), array)


def test_the_pinned_artifact_is_read():
    container = unpack_container(bytes.fromhex(pins()["artifact"]))
    assert container.metadata == {"producer": "golden"}
    assert list(container.sections) == [("w", "codes"), ("w", "scale")]
    np.testing.assert_array_equal(container.section("w", "codes").decode(), codec_arrays.one_bell())
    np.testing.assert_array_equal(container.section("w", "scale").decode(), codec_arrays.scales())


def artifact():
    codes = Section.encode("w", "codes", array=codec_arrays.one_bell(), chain=("ans",))
    scale = Section.encode("w", "scale", array=codec_arrays.scales(), chain=("shuffle", "brotli"))
    return pack_container([codes, scale], {"producer": "golden"})


if __name__ == "__main__":
    made = {
        "ans": {name: encode(array, ("ans",)).hex() for name, array in ANS.items()},
        "trellis": {str(n): encode(codec_arrays.levels(n), (f"trellis{n}",)).hex() for n in POLYNOMIALS},
        "generic": {"+".join(chain): encode(codec_arrays.scales(), chain).hex() for chain in GENERIC},
        "artifact": artifact().hex(),
    }
    PINS.write_text(json.dumps(made, indent=1) + "\n")
