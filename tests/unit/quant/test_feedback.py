import itertools

import numpy as np
import pytest
import torch

from nutshell.errors import NutshellError
from nutshell.quant.feedback import Feedback


def inputs_and_weight(rows=4, cols=12, seed=0):
    """Correlated inputs of uneven energy: [tokens C], and a weight."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(3 * cols, cols)) @ random.normal(size=(cols, cols)) * np.exp(random.normal(size=cols))
    return inputs, random.normal(size=(rows, cols))


def loss(hessian, error):
    return float(np.einsum("rc,cd,rd->", error, hessian, error))


def nearest(steps, top=None):
    """Make a column quantizer that rounds to nearest."""

    def column_codes(column, targets):
        codes = torch.round(targets / steps[:, column])
        return (codes if top is None else codes.clamp(-top, top)).to(torch.int16)

    return column_codes


def quantize(hessian, weight, steps, *, act_order=False, damping=0.01, block=128, top=None):
    weight, steps = torch.from_numpy(weight), torch.from_numpy(steps)
    feedback = Feedback.of(torch.from_numpy(hessian), act_order=act_order, damping=damping)
    return feedback.quantize(weight, steps, block, nearest(steps, top)).numpy()


def plain_loop(hessian, weight, steps, order, top):
    """Quantize as the definition says: round a column, then solve for the best of all columns that are left."""
    weight, codes, left = weight.copy(), np.zeros(weight.shape, int), list(order)
    while left:
        column, *rest = left
        codes[:, column] = np.clip(np.rint(weight[:, column] / steps[:, column]), -top, top)
        error = weight[:, column] - codes[:, column] * steps[:, column]
        if rest:
            shift = np.linalg.solve(hessian[np.ix_(rest, rest)], hessian[rest, column])
            weight[:, rest] += np.outer(error, shift)
        left = rest
    return codes


def damped(hessian, damping):
    return hessian + damping * hessian.diagonal().mean() * np.eye(len(hessian))


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block", [1, 5, 128])
@pytest.mark.parametrize("top", [2, 100])
def test_equals_solving_for_the_columns_that_are_left(act_order, block, top):
    inputs, weight = inputs_and_weight()
    hessian = inputs.T @ inputs / len(inputs)
    steps = np.random.default_rng(1).uniform(0.2, 0.6, weight.shape)
    order = np.argsort(-hessian.diagonal()) if act_order else range(len(hessian))
    expected = plain_loop(damped(hessian, 0.03), weight, steps, order, top)
    found = quantize(hessian, weight, steps, act_order=act_order, damping=0.03, block=block, top=top)
    assert np.array_equal(found, expected)


def test_lies_between_the_best_of_all_codes_and_rounding_to_nearest():
    all_codes = np.array(list(itertools.product((-1, 0, 1), repeat=6))).reshape(-1, 2, 3)
    losses = []
    for seed in range(30):
        inputs, weight = inputs_and_weight(rows=2, cols=3, seed=seed)
        hessian, steps = inputs.T @ inputs, np.full((2, 3), 0.8)
        codes = quantize(hessian, weight, steps, damping=1e-9, top=1)
        best = min(loss(hessian, weight - 0.8 * some) for some in all_codes)
        rounded = loss(hessian, weight - 0.8 * np.clip(np.rint(weight / 0.8), -1, 1))
        losses.append((best, loss(hessian, weight - 0.8 * codes), rounded))
    best, found, rounded = np.array(losses).T
    assert (best <= found * (1 + 1e-12)).all()
    assert np.isclose(best, found).sum() >= 10
    # Of a greedy search no law says that it wins each time: here it does not in 4 of 30.
    assert (found <= rounded * (1 + 1e-12)).sum() >= 26


@pytest.mark.parametrize("act_order", [False, True])
def test_costs_no_more_than_half_a_step_of_what_no_column_can_take_up(act_order):
    inputs, weight = inputs_and_weight(rows=30)
    hessian, steps = inputs.T @ inputs, np.full(weight.shape, 0.3)
    codes = quantize(hessian, weight, steps, act_order=act_order, damping=0.01)
    feedback = Feedback.of(torch.from_numpy(hessian), act_order=act_order, damping=0.01)
    bound = float(feedback.conditional_variances().sum()) * 0.15**2
    for row, some in zip(weight, codes, strict=True):
        assert loss(damped(hessian, 0.01), (row - 0.3 * some)[None]) <= bound


def test_a_diagonal_hessian_leaves_rounding_to_nearest():
    _, weight = inputs_and_weight()
    steps = np.full(weight.shape, 0.3)
    for act_order in (False, True):
        found = quantize(np.diag(np.arange(1.0, 13.0)), weight, steps, act_order=act_order)
        assert np.array_equal(found, np.rint(weight / 0.3))


def test_loses_much_less_than_rounding_to_nearest():
    inputs, weight = inputs_and_weight(rows=64, cols=48)
    hessian, steps = inputs.T @ inputs, np.full(weight.shape, 0.3)
    losses = [
        loss(hessian, weight - 0.3 * quantize(hessian, weight, steps, act_order=act_order))
        for act_order in (False, True)
    ]
    assert max(losses) < 0.6 * loss(hessian, weight - 0.3 * np.rint(weight / 0.3))


def test_rows_and_with_act_order_columns_may_come_in_any_order():
    inputs, weight = inputs_and_weight()
    hessian, steps = inputs.T @ inputs, np.random.default_rng(1).uniform(0.2, 0.6, weight.shape)
    rows, columns = np.random.default_rng(2).permutation(4), np.random.default_rng(2).permutation(12)
    plain = quantize(hessian, weight, steps, act_order=True)
    by_rows = quantize(hessian, weight[rows], steps[rows], act_order=True)
    by_columns = quantize(hessian[np.ix_(columns, columns)], weight[:, columns], steps[:, columns], act_order=True)
    assert np.array_equal(by_rows, plain[rows])
    assert np.array_equal(by_columns, plain[:, columns])


def test_codes_do_not_change_with_the_unit_of_inputs_or_weights():
    inputs, weight = inputs_and_weight()
    hessian, steps = inputs.T @ inputs, np.full(weight.shape, 0.3)
    plain = quantize(hessian, weight, steps, act_order=True)
    assert np.array_equal(quantize(hessian * 4.0, weight, steps, act_order=True), plain)
    assert np.array_equal(quantize(hessian, weight * 4.0, steps * 4.0, act_order=True), plain)


def test_dead_inputs_get_zero_codes_and_do_not_change_the_others():
    inputs, weight = inputs_and_weight()
    alive = [column for column in range(12) if column not in (0, 7)]
    hessian, steps = inputs.T @ inputs, np.full(weight.shape, 0.3)
    hessian[[0, 7]] = hessian[:, [0, 7]] = 0
    for act_order in (False, True):
        found = quantize(hessian, weight, steps, act_order=act_order)
        assert not found[:, [0, 7]].any()
        without = quantize(hessian[np.ix_(alive, alive)], weight[:, alive], steps[:, alive], act_order=act_order)
        assert np.array_equal(found[:, alive], without)
    assert not quantize(np.zeros((12, 12)), weight, steps).any()


def test_what_no_column_can_take_up_is_the_conditional_variance():
    inputs, _ = inputs_and_weight()
    hessian = inputs.T @ inputs
    feedback = Feedback.of(torch.from_numpy(hessian), act_order=True, damping=0.02)
    order, full = feedback.order.tolist(), damped(hessian, 0.02)
    for place, column in enumerate(order):
        rest = order[place + 1 :]
        taken = full[column, rest] @ np.linalg.solve(full[np.ix_(rest, rest)], full[rest, column]) if rest else 0.0
        assert float(feedback.conditional_variances()[column]) == pytest.approx(full[column, column] - taken)


def test_a_hessian_that_cannot_be_factored_is_refused():
    hessian = torch.ones(3, 3)
    with pytest.raises(NutshellError, match="singular; calibrate on more tokens"):
        Feedback.of(hessian, act_order=False, damping=0.0)
    hessian[0, 0] = torch.inf
    with pytest.raises(NutshellError, match="not finite"):
        Feedback.of(hessian, act_order=False, damping=0.01)
