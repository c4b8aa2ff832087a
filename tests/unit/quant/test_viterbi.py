import itertools

import numpy as np
import pytest

from nutshell.codec.trellis_code import POLYNOMIALS
from nutshell.quant.viterbi import best_levels


def parity(number):
    return number.bit_count() % 2


def subsets_of(path, states):
    """Follow the definition: each z is the parity of the path bits that its polynomial picks."""
    h0, h1 = POLYNOMIALS[states]
    found = []
    for t in range(len(path)):
        window = sum(path[t - age] << age for age in range(t + 1))
        found.append(2 * parity(window & h0) + parity(window & h1))
    return found


def cost(targets, pulls, levels):
    return sum(
        (target - level) ** 2 + pull * level**2 for target, pull, level in zip(targets, pulls, levels, strict=True)
    )


def cheapest(target, pull, subset):
    """Try every level of the subset within reach."""
    levels = [level for level in range(-24, 25) if level % 4 == subset]
    return min(levels, key=lambda level: (target - level) ** 2 + pull * level**2)


def exhaustive(targets, pulls, states):
    """Try every path."""
    best = np.inf
    for path in itertools.product((0, 1), repeat=len(targets)):
        pairs = zip(targets, pulls, subsets_of(path, states), strict=True)
        levels = [cheapest(target, pull, subset) for target, pull, subset in pairs]
        best = min(best, cost(targets, pulls, levels))
    return best


@pytest.mark.parametrize("states", POLYNOMIALS)
@pytest.mark.parametrize("pull", [0.0, 0.3, None])
def test_no_path_is_cheaper(states, pull):
    random = np.random.default_rng(states)
    targets = random.normal(0, 3, (3, 9))
    pulls = random.uniform(0, 2, targets.shape) if pull is None else np.full(targets.shape, pull)
    for target, some_pulls, levels in zip(targets, pulls, best_levels(targets, pulls, states), strict=True):
        assert cost(target, some_pulls, levels.tolist()) == pytest.approx(exhaustive(target, some_pulls, states), 1e-12)


@pytest.mark.parametrize("states", POLYNOMIALS)
def test_levels_follow_the_code_from_zero_bits(states):
    targets = np.random.default_rng(1).normal(0, 5, (2, 300))
    for levels in best_levels(targets, np.zeros_like(targets), states).tolist():
        path = []
        for level in levels:
            bit = next((bit for bit in (0, 1) if subsets_of([*path[-20:], bit], states)[-1] == level % 4), None)
            assert bit is not None
            path.append(bit)


def test_a_code_of_more_states_is_nearer_to_the_targets():
    targets = np.random.default_rng(2).normal(0, 5, (4, 2000))
    errors = [
        np.square(targets - best_levels(targets, np.zeros_like(targets), states)).mean() for states in POLYNOMIALS
    ]
    assert errors == sorted(errors, reverse=True)
    # Steps of two levels, which cost as many bits, err by 4/12. Known gains over them are 0.99 dB for 4 states and
    # 1.33 dB for 256 (Marcellin and Fischer, Trellis Coded Quantization, 1990, uniform source).
    assert 10 * np.log10(4 / 12 / np.array(errors))[[0, -1]] == pytest.approx([0.99, 1.33], abs=0.05)


def test_sequences_do_not_know_of_each_other():
    targets = np.random.default_rng(3).normal(0, 5, (3, 50))
    together = best_levels(targets, np.zeros_like(targets), 8)
    for one, levels in zip(targets, together, strict=True):
        assert np.array_equal(best_levels(one[None], np.zeros((1, 50)), 8)[0], levels)


def test_targets_beyond_the_widest_level_are_cut():
    levels = best_levels(np.array([[1e9, -1e9, 0.0]]), np.zeros((1, 3)), 8)
    assert levels[0, 0] > 32_000
    assert levels[0, 1] < -32_000


def test_no_sequences_and_no_steps():
    for shape in ((0, 5), (2, 0)):
        assert best_levels(np.zeros(shape), np.zeros(shape), 4).shape == shape


def test_only_known_codes():
    with pytest.raises(AssertionError, match="no code of 12 states"):
        best_levels(np.zeros((1, 3)), np.zeros((1, 3)), 12)
