import numpy as np
import pytest

import codec_arrays
from nutshell.codec.chain import encode
from nutshell.codec.transforms import TRANSFORMS, BitPlanes, ByteShuffle, FloatBits, SortedRows
from nutshell.errors import ArtifactError


def test_shuffle_groups_bytes_by_their_place():
    shuffled = ByteShuffle().forward(np.array([0x0102, 0x0304, 0x0506], np.uint16))
    assert shuffled.tolist() == [[2, 4, 6], [1, 3, 5]]


def test_shuffle_pays_for_scales():
    scales = np.concatenate([codec_arrays.scales() * factor for factor in (1, 1.1, 1.3)] * 4).astype(np.float16)
    assert len(encode(scales, ("shuffle", "lzma"))) < len(encode(scales, ("lzma",)))


def test_bits_keep_the_order_of_floats():
    ordered = np.array([-np.inf, -2.5, -1e-7, -0.0, 0.0, 1e-7, 0.01, 0.0101, 2.5, np.inf], np.float16)
    bits = FloatBits().forward(ordered)
    assert bits.dtype == np.int16
    assert (np.diff(bits.astype(int)) > 0).all()
    assert bits[4] == 0
    assert bits[3] == -1


def test_bits_pay_for_scales_under_an_entropy_model():
    scales = codec_arrays.scales()
    assert len(encode(scales, ("bits", "ans"))) < 0.9 * len(encode(scales, ("shuffle", "brotli")))


@pytest.mark.parametrize("transform", TRANSFORMS.values())
@pytest.mark.parametrize("array", codec_arrays.EVERY.values())
def test_between_foretells_what_forward_makes(transform, array):
    array = np.asarray(array, array.dtype.newbyteorder("<"))
    changed = transform.forward(array)
    assert (changed.dtype, changed.shape) == transform.between(array.dtype, array.shape)
    assert transform.inverse(changed, array.dtype, array.shape).tobytes() == array.tobytes()


def test_bit_planes_of_small_numbers_are_empty_but_for_the_lowest():
    planes = BitPlanes().forward(np.array([0, -1, 1, -2, 0, 0, 0, 1, 2], np.int8))
    assert planes.shape == (8, 2)
    assert planes[:3].tolist() == [[0b01010000, 0], [0b00110001, 0], [0, 0b10000000]]
    assert not planes[3:].any()


def test_rows_are_sorted_by_magnitude_behind_their_places():
    rows = np.array([[5, -5], [0, 1], [-3, 0]], np.int8)
    assert SortedRows().forward(rows).tolist() == [1, 2, 0, *[0] * 9, 0, 1, 253, 0, 5, 251]


@pytest.mark.parametrize("places", [[0, 0, 1], [0, 1, 3]])
def test_places_that_are_no_permutation_are_refused(places):
    array = np.array([*places, *[0] * 9, 1, 2, 3, 4, 5, 6], np.uint8)
    with pytest.raises(ArtifactError, match="out of an order"):
        SortedRows().inverse(array, np.dtype(np.int8), (3, 2))
