"""What every registered coder and transform promises."""

import numpy as np
import pytest

import codec_arrays
from nutshell.codec.chain import decode, encode
from nutshell.codec.coders import CODERS, TRELLIS_CODERS
from nutshell.codec.transforms import TRANSFORMS
from nutshell.errors import ArtifactError

FREE = [coder for coder in CODERS if coder not in TRELLIS_CODERS.values()]  # code any array of their dtypes
CHAINS = [(coder,) for coder in FREE] + [(name, coder) for name in TRANSFORMS for coder in FREE]


def _takes(chain, array):
    """`ans` codes integers; a transform may make some of other things."""
    if chain[-1] != "ans" or array.dtype.kind in "iu":
        return True
    return chain[0] in ("shuffle", "bitplanes", "sort_rows") or (chain[0], array.itemsize) == ("bits", 2)


SCALES = np.exp(codec_arrays.noise(2000) / 4 - 4).astype(np.float16)
PAIRS = [
    pytest.param(chain, array, id=f"{'+'.join(chain)}, {name}")
    for chain in CHAINS
    for name, array in codec_arrays.EVERY.items()
    if _takes(chain, array)
]


@pytest.mark.parametrize(("chain", "array"), PAIRS)
def test_decode_is_the_exact_inverse_of_encode(chain, array):
    payload = encode(array, chain)
    restored = decode(payload, chain, array.dtype, array.shape)
    assert restored.dtype.name == array.dtype.name
    assert restored.shape == array.shape
    assert restored.tobytes() == array.astype(restored.dtype).tobytes()
    assert restored.flags.writeable
    assert payload == encode(array.copy(), chain)
    assert (payload == b"") == (array.size == 0)


@pytest.mark.parametrize("chain", CHAINS)
def test_damage_is_refused_or_decodes_to_the_same_type(chain):
    array = codec_arrays.rows_of_many_widths()
    payload = encode(array, chain)
    damaged = [payload[:-1], payload + b"\1", payload[: len(payload) // 2], b"", payload[::-1]]
    damaged += [payload[:i] + bytes([payload[i] ^ bit]) + payload[i + 1 :] for i in range(12) for bit in (1, 128)]
    messages = []
    for content in damaged:
        try:
            restored = decode(content, chain, array.dtype, array.shape)
        except ArtifactError as error:
            messages.append(str(error))
        else:
            assert restored.dtype == array.dtype
            assert restored.shape == array.shape
    assert len(messages) >= 3
    assert all(message and message.isprintable() for message in messages)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("cut", [1, 2, 7])
def test_a_payload_cut_short_is_refused(chain, cut):
    array = codec_arrays.rows_of_many_widths()
    with pytest.raises(ArtifactError):
        decode(encode(array, chain)[:-cut], chain, array.dtype, array.shape)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("shape", [(48, 63), (47, 64), (0,)])
def test_a_payload_of_another_shape_is_refused(chain, shape):
    array = codec_arrays.rows_of_many_widths()
    with pytest.raises(ArtifactError):
        decode(encode(array, chain), chain, array.dtype, shape)


LEVELS = [
    pytest.param(states, array, id=f"{states} states, {name}")
    for states in TRELLIS_CODERS
    for name, array in {
        "levels": codec_arrays.levels(states),
        "wide levels": codec_arrays.levels(states).astype(np.int16) * 8 + codec_arrays.levels(states) % 4,
        "one column": codec_arrays.levels(states, rows=2016),
        "one row": codec_arrays.levels(states, count=42, rows=1),
        "zeros": np.zeros((9, 30), np.int8),
        "no rows": np.zeros((0, 30), np.int8),
        "no columns": np.zeros((30, 0), np.int8),
    }.items()
    if name != "wide levels" or states == 4
]


@pytest.mark.parametrize(("states", "array"), LEVELS)
def test_levels_of_a_trellis_come_back(states, array):
    chain = (TRELLIS_CODERS[states],)
    payload = encode(array, chain)
    restored = decode(payload, chain, array.dtype, array.shape)
    np.testing.assert_array_equal(restored, array)
    assert restored.dtype == array.dtype
    assert payload == encode(array.copy(), chain)


@pytest.mark.parametrize("states", TRELLIS_CODERS)
def test_damage_to_levels_is_refused_or_decodes_to_the_same_type(states):
    array, chain = codec_arrays.levels(states), (TRELLIS_CODERS[states],)
    payload = encode(array, chain)
    damaged = [payload[:-1], payload + b"\1", payload[: len(payload) // 2], b"", payload[::-1]]
    damaged += [payload[:i] + bytes([payload[i] ^ bit]) + payload[i + 1 :] for i in range(40) for bit in (1, 128)]
    refused = 0
    for content in damaged:
        try:
            restored = decode(content, chain, array.dtype, array.shape)
        except ArtifactError:
            refused += 1
        else:
            assert (restored.dtype, restored.shape) == (array.dtype, array.shape)
    assert refused >= 5


@pytest.mark.parametrize(("shape", "message"), [((2016,), "planes of levels"), ((42, 48), ""), ((48, 43), "")])
def test_levels_of_another_shape_are_refused(shape, message):
    payload = encode(codec_arrays.levels(8), ("trellis8",))
    if message:
        with pytest.raises(ArtifactError, match=message):
            decode(payload, ("trellis8",), np.dtype(np.int8), shape)
    else:
        try:
            restored = decode(payload, ("trellis8",), np.dtype(np.int8), shape)
        except ArtifactError:
            return
        assert restored.shape == shape


def test_levels_that_leave_the_trellis_are_the_quantizers_mistake():
    levels = codec_arrays.levels(8)
    levels[20, 3] += 1
    with pytest.raises(ArtifactError, match="do not follow"):
        encode(levels, ("trellis8",))
