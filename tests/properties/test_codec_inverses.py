"""Codec chains on arrays of any dtype, shape and content."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import ans_reference
from nutshell.codec.chain import decode, encode
from nutshell.codec.fitting import fit
from nutshell.codec.trellis_code import POLYNOMIALS, subsets

SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=40)
ANY_CHAIN = st.sampled_from(
    [
        ("brotli",),
        ("lzma",),
        ("zstd",),
        ("raw",),
        ("shuffle", "brotli"),
        ("bits", "raw"),
        ("bits", "shuffle", "raw"),
        ("transpose", "shuffle", "zstd"),
        ("bitplanes", "ans"),
        ("sort_rows", "ans"),
    ]
)
INTEGER_DTYPES = st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32"])


@st.composite
def codes(draw, max_side=40):
    """Integers of any dtype within a span that an entropy model can have, clustered or spread."""
    dtype = np.dtype(draw(INTEGER_DTYPES))
    span = draw(st.sampled_from([0, 1, 2, 15, 63, 255]))
    low = draw(st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max - span))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=max_side))
    high = draw(st.integers(low, low + span))
    return draw(npst.arrays(dtype, shape, elements=st.integers(low, high)))


@given(
    npst.arrays(npst.integer_dtypes(endianness="=") | npst.floating_dtypes(endianness="="), SHAPES),
    ANY_CHAIN,
)
@settings(deadline=None, max_examples=100)
def test_generic_chains_are_exact_inverses(array, chain):
    restored = decode(encode(array, chain), chain, array.dtype, array.shape)
    assert restored.dtype == array.dtype
    assert restored.shape == array.shape
    assert restored.tobytes() == array.tobytes()


@given(codes())
@settings(deadline=None, max_examples=200)
def test_entropy_coding_is_an_exact_inverse_and_never_dearer_than_its_model_says(array):
    payload = encode(array, ("ans",))
    np.testing.assert_array_equal(decode(payload, ("ans",), array.dtype, array.shape), array, strict=True)
    # Not two-sided: from an empty stack the lowest code costs nothing, so an array that ends in many of it is cheaper.
    if array.size:
        rows = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
        bits = fit(rows.astype(np.int64) - int(array.min()), int(array.min())).bits
        assert len(payload) <= bits / 8 + 5


@given(codes(max_side=20))
@settings(deadline=None, max_examples=60)
def test_the_written_format_is_what_the_encoder_writes(array):
    if array.size:
        assert ans_reference.decode(encode(array, ("ans",)), array.shape) == array.ravel().tolist()


@st.composite
def levels(draw):
    """Levels of any spread that follow the trellis of some states."""
    states = draw(st.sampled_from(sorted(POLYNOMIALS)))
    shape = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    path = draw(npst.arrays(np.uint8, shape, elements=st.integers(0, draw(st.sampled_from([0, 1])))))
    reach = draw(st.sampled_from([0, 1, 3, 20, 2000]))
    indices = draw(npst.arrays(np.int16, shape, elements=st.integers(-reach, reach)))
    return states, 4 * indices + subsets(path, states)


@given(levels())
@settings(deadline=None, max_examples=150)
def test_levels_of_a_trellis_are_coded_exactly_and_as_the_format_says(case):
    states, array = case
    payload = encode(array, (f"trellis{states}",))
    np.testing.assert_array_equal(decode(payload, (f"trellis{states}",), array.dtype, array.shape), array, strict=True)
    if array.size <= 200:
        assert ans_reference.decode_trellis(payload, array.shape, *POLYNOMIALS[states]) == array.ravel().tolist()
