"""What every registered coder and transform promises."""

import numpy as np
import pytest

import codec_arrays
from nutshell.codec.chain import decode, encode
from nutshell.codec.coders import CODERS
from nutshell.codec.transforms import TRANSFORMS
from nutshell.errors import ArtifactError

CHAINS = [(coder,) for coder in CODERS] + [(name, coder) for name in TRANSFORMS for coder in CODERS]
SCALES = np.exp(codec_arrays.noise(2000) / 4 - 4).astype(np.float16)
PAIRS = [
    pytest.param(chain, array, id=f"{'+'.join(chain)}, {name}")
    for chain in CHAINS
    for name, array in codec_arrays.EVERY.items()
    if chain[-1] != "ans"
    or chain[0] == "shuffle"
    or array.dtype.kind in "iu"
    or (chain[0], array.itemsize) == ("bits", 2)
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
