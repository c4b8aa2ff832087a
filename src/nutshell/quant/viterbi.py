"""The best levels of a trellis for given targets: the Viterbi search, compiled.

A sequence of levels is allowed if its subsets (a level's remainder by 4) follow the convolutional code of
`codec/trellis_code.py`. The state is what the code remembers of the path bits, so each state has two successors and two
predecessors, and each subset one best level. The search keeps the cheapest way into every state.
"""

import math
from functools import cache

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from nutshell.codec.trellis_code import POLYNOMIALS, subsets

# Levels are stored as int16 at most; targets beyond are cut.
_FARTHEST = float(2**15 - 4)


def best_levels(
    targets: Float[np.ndarray, "N T"], pulls: Float[np.ndarray, "N T"], states: int
) -> Int[np.ndarray, "N T"]:
    """Find for each sequence the levels of least cost, sum over t of (target - level)^2 + pull level^2.

    Sequences are independent, and the result is the same for each alone. Runs without the interpreter's lock.

    Args:
        targets: in steps of the levels.
        pulls: what a level's square costs, not negative: the price of a level under a normal model, in squared steps.
        states: of the code.
    """
    levels = np.empty(targets.shape, np.int16)
    # (u - l)^2 + a l^2 is (1 + a) (u / (1 + a) - l)^2 and a constant: the nearest level to a target nearer to zero.
    weights = 1.0 + pulls
    _search_all(np.clip(targets / weights, -_FARTHEST, _FARTHEST), weights, _branches(states), levels)
    return levels


@cache
def _branches(states: int) -> Int[np.ndarray, " S/2"]:
    """Give the subset of path bit 0 from each state of the lower half; the others follow.

    Both ends of a code's polynomials lie in h0 alone, so the newest and the oldest bit turn z1 around and leave z0.
    """
    half, memory = states // 2, states.bit_length() - 1
    assert states in POLYNOMIALS, f"no code of {states} states"
    # A state's bits are the last path bits, the newest lowest; on top of them comes bit 0.
    history = np.array([[state >> age & 1 for state in range(half)] for age in reversed(range(memory))], np.uint8)
    return subsets(np.vstack([history, np.zeros((1, half), np.uint8)]), states)[-1].astype(np.int64)


@njit(cache=True, nogil=True)
def _search_all(targets, weights, branches, levels):  # noqa: ANN001, ANN202  (compiled for arrays alone)
    """Search every row; tables are made once for all."""
    num_states = 2 * branches.shape[0]
    costs, next_costs = np.empty(num_states), np.empty(num_states)
    from_upper = np.empty((targets.shape[1], num_states), np.bool_)
    for row in range(targets.shape[0]):
        costs[:] = np.inf
        costs[0] = 0.0
        _forward(targets[row], weights[row], branches, costs, next_costs, from_upper)
        _trace_back(targets[row], branches, np.argmin(costs), from_upper, levels[row])


@njit(cache=True, nogil=True)
def _forward(targets, weights, branches, costs, next_costs, from_upper):  # noqa: ANN001, ANN202
    """Carry the cheapest cost of every state to the end; note by which of its two predecessors it came.

    State s goes to 2 s + bit, less the bit that is too old: s and s + half lead to the same two.
    """
    half = branches.shape[0]
    subset_costs = np.empty(4)
    for t in range(targets.shape[0]):
        _price_subsets(targets[t], weights[t], subset_costs)
        for state in range(half):
            subset = branches[state]
            near, far = subset_costs[subset], subset_costs[subset ^ 2]
            lower, upper = costs[state] + near, costs[state + half] + far
            next_costs[2 * state] = min(lower, upper)
            from_upper[t, 2 * state] = upper < lower
            lower, upper = costs[state] + far, costs[state + half] + near
            next_costs[2 * state + 1] = min(lower, upper)
            from_upper[t, 2 * state + 1] = upper < lower
        costs[:] = next_costs


@njit(cache=True, nogil=True)
def _price_subsets(target, weight, subset_costs):  # noqa: ANN001, ANN202
    """Give the cost of each subset's nearest level: these are the four levels around the target."""
    below = math.floor(target)
    past, left = target - below, 1.0 - (target - below)
    subset_costs[(below - 1) & 3] = weight * (1.0 + past) * (1.0 + past)
    subset_costs[below & 3] = weight * past * past
    subset_costs[(below + 1) & 3] = weight * left * left
    subset_costs[(below + 2) & 3] = weight * (1.0 + left) * (1.0 + left)


@njit(cache=True, nogil=True)
def _trace_back(targets, branches, state, from_upper, levels):  # noqa: ANN001, ANN202
    """Read the levels off the way into the last state."""
    half = branches.shape[0]
    for t in range(targets.shape[0] - 1, -1, -1):
        upper = from_upper[t, state]
        subset = branches[state >> 1] ^ (2 * (state & 1)) ^ (2 if upper else 0)
        first = math.floor(targets[t]) - 1
        levels[t] = first + ((subset - first) & 3)
        state = (state >> 1) + (half if upper else 0)
