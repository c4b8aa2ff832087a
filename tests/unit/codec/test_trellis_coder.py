import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import codec_arrays
from nutshell.codec.blocks import Blocks
from nutshell.codec.chain import decode, encode
from nutshell.codec.models import Histogram, StaticModel, Support, unsigned_bytes
from nutshell.codec.path_shares import PathShares
from nutshell.codec.stack import Stack
from nutshell.codec.trellis_code import subsets
from nutshell.errors import ArtifactError

INT8 = np.dtype(np.int8)


def one_block(plane):
    return Blocks(*(np.zeros(count, np.int64) for count in plane.shape))


def random_levels(shape, *, sigma, states, seed=0):
    """The nearest level to a normal target in the subset that random path bits leave."""
    rng = np.random.default_rng(seed)
    of_subset = subsets(rng.integers(0, 2, shape).astype(np.uint8), states).astype(np.int64)
    return (of_subset + 4 * np.rint((rng.normal(scale=sigma, size=shape) - of_subset) / 4)).astype(np.int8)


def level_bits(sigma):
    """Entropy of a normal variable rounded to a subset, averaged over the four; and the path bit."""

    def below(edge):
        return math.erfc(-edge / sigma / math.sqrt(2)) / 2

    bits = 1.0
    for subset in range(4):
        for level in range(subset - 80, subset + 81, 4):
            if (share := below(level + 2) - below(level - 2)) > 1e-300:
                bits -= share * math.log2(share) / 4
    return bits


@pytest.mark.parametrize("states", [8, 256])
def test_normal_levels_cost_their_conditional_entropy(states):
    levels = random_levels((1000, 600), sigma=1 / 0.22, states=states)
    bits = 8 * len(encode(levels, (f"trellis{states}",))) / levels.size
    assert bits == pytest.approx(level_bits(1 / 0.22), abs=0.003)


def test_quiet_columns_cost_little_more_than_nothing():
    levels = np.zeros((400, 80), np.int8)
    levels[:, :20] = random_levels((400, 20), sigma=5, states=8)
    assert len(encode(levels, ("trellis8",))) < 1.02 * len(encode(levels[:, :20], ("trellis8",))) + 60


@pytest.mark.parametrize(("change", "message"), [(-1, "fewer path bits"), (1, "belong to no level")])
def test_coins_too_few_or_too_many_are_refused(change, message):
    levels = codec_arrays.levels(8)  # random path bits: one class, all coins
    payload = encode(levels, ("trellis8",))
    count = unsigned_bytes(levels.size // 8)
    assert payload.count(count) == 1
    model, rest = payload.split(count)
    coins, stream = rest[: levels.size // 8], rest[levels.size // 8 :]
    coins = coins[:-1] if change < 0 else coins + b"\0"
    with pytest.raises(ArtifactError, match=message):
        decode(model + unsigned_bytes(len(coins)) + coins + stream, ("trellis8",), INT8, levels.shape)


def test_a_path_to_levels_that_the_model_lacks_is_refused():
    only_zero = StaticModel(Support(0, 1), Histogram(b"a")).to_bytes()
    coins = b"\xff" * 18
    with pytest.raises(ArtifactError, match="leads to levels that it does not have"):
        decode(only_zero + b"\0" + unsigned_bytes(18) + coins, ("trellis8",), INT8, (9, 16))
    assert not decode(only_zero + b"\0" + unsigned_bytes(18) + bytes(18), ("trellis8",), INT8, (9, 16)).any()


def drawn_path(classes, ones, seed=0):
    """Path bits whose share of ones goes by the sum of classes; in the order of the blocks."""
    blocks = Blocks(*classes)
    plane = np.add.outer(*classes)
    path = (np.random.default_rng(seed).random(plane.shape) < np.array(ones)[plane]).astype(np.uint8)
    return blocks, blocks.ordered(path)


@given(
    rows=st.lists(st.integers(0, 2), min_size=1, max_size=9),
    columns=st.lists(st.integers(0, 2), min_size=1, max_size=9),
    shares=st.binary(min_size=5, max_size=5),
    seed=st.integers(0, 9),
)
def test_path_bits_come_back_under_any_shares(rows, columns, shares, seed):
    blocks, ordered = drawn_path((np.array(rows), np.array(columns)), (0.5, 0.1, 0.9, 0.0, 1.0), seed)
    stack, path = Stack(), PathShares(shares)
    coins = path.push(stack, blocks, ordered)
    stack = Stack(stack.to_bytes())
    np.testing.assert_array_equal(path.pop(stack, blocks, coins, ordered.shape), ordered)
    stack.check_empty()


@pytest.mark.parametrize("share", [0.002, 0.1, 0.3, 0.44])
def test_eight_path_bits_at_a_time_cost_their_entropy(share):
    blocks, ordered = drawn_path((np.zeros(400, np.int64), np.zeros(501, np.int64)), (share,))
    stack = Stack()
    PathShares.of(ordered, blocks, 1).push(stack, blocks, ordered)
    found = ordered.mean()
    entropy = -found * math.log2(found) - (1 - found) * math.log2(1 - found)
    assert 8 * len(stack.to_bytes()) / ordered.size == pytest.approx(entropy, rel=0.001, abs=0.0003)


def test_path_bits_beyond_the_last_level_are_refused():
    bits, fewer, stack = np.ones((4, 4), np.uint8), np.ones((3, 3), np.uint8), Stack()
    PathShares(b"\x40").push(stack, one_block(bits), bits)
    with pytest.raises(ArtifactError, match="belong to no level"):
        PathShares(b"\x40").pop(stack, one_block(fewer), b"", fewer.shape)


def test_shares_of_ones_are_near_what_was_counted():
    for ones in (0.001, 0.03, 0.2, 0.35):
        path = (np.random.default_rng(1).random((500, 400)) < ones).astype(np.uint8)
        shares = PathShares.of(path, one_block(path), 1).shares
        assert (shares[0] / 256) ** 2 == pytest.approx(ones, rel=0.15)
    coins = (np.random.default_rng(1).random((500, 400)) < 0.5).astype(np.uint8)
    assert PathShares.of(coins, one_block(coins), 1).shares == b"\0"
