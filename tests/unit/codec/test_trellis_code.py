import numpy as np
import pytest

from nutshell.codec.trellis_code import POLYNOMIALS, path_bits, subsets
from nutshell.errors import ArtifactError

STATES = list(POLYNOMIALS)


def path(rows, cols=5, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (rows, cols), np.uint8)


def walk(bits, states):
    """Run one column through a shift register, bit by bit."""
    of_z1, of_z0 = POLYNOMIALS[states]
    register, found = 0, []
    for bit in bits:
        register = (register << 1 | bit) & (2 * states - 1)
        found.append(2 * ((register & of_z1).bit_count() % 2) + (register & of_z0).bit_count() % 2)
    return found


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("rows", [0, 1, 3, 50])
def test_subsets_are_those_of_a_shift_register(states, rows):
    bits = path(rows)
    found = subsets(bits, states)
    assert found.shape == bits.shape
    for column, expected in zip(found.T.tolist(), bits.T.tolist(), strict=True):
        assert column == walk(expected, states)


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("rows", [0, 1, 3, 50])
def test_path_bits_come_back_from_levels(states, dtype, rows):
    bits = path(rows)
    levels = subsets(bits, states) + 4 * np.random.default_rng(1).integers(-20, 20, bits.shape)
    assert np.array_equal(path_bits(levels.astype(dtype), states), bits)


@pytest.mark.parametrize("states", STATES)
def test_each_state_leads_to_one_half_of_the_levels_and_leaves_a_choice(states):
    memory = states.bit_length() - 1
    for history in range(states):
        past = [history >> age & 1 for age in range(memory)]
        ends = [walk([*past, bit], states)[-1] for bit in (0, 1)]
        assert ends[0] ^ ends[1] == 2


@pytest.mark.parametrize("states", STATES)
def test_levels_of_no_path_are_refused(states):
    levels = subsets(path(30), states).astype(np.int8)
    levels[17, 3] ^= 1
    with pytest.raises(ArtifactError, match=f"trellis of {states} states"):
        path_bits(levels, states)
