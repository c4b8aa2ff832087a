import math

import numpy as np
import pytest

import codec_arrays
from nutshell.codec.blocks import Blocks
from nutshell.codec.chain import decode, encode
from nutshell.codec.models import Histogram, StaticModel, Support, unsigned_bytes
from nutshell.codec.path_shares import PathShares
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


def test_shares_of_ones_are_near_what_was_counted():
    for ones in (0.001, 0.03, 0.2, 0.35):
        path = (np.random.default_rng(1).random((500, 400)) < ones).astype(np.uint8)
        shares = PathShares.of(path, one_block(path), 1).shares
        assert (shares[0] / 256) ** 2 == pytest.approx(ones, rel=0.15)
    coins = (np.random.default_rng(1).random((500, 400)) < 0.5).astype(np.uint8)
    assert PathShares.of(coins, one_block(coins), 1).shares == b"\0"
