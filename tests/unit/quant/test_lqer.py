"""Low-rank correction: the best factors there are, stored in few bits, and given back."""

import numpy as np
import pytest
import torch

from nutshell.codec.planes import CodePlanes
from nutshell.config.loader import decode
from nutshell.errors import ArtifactError, RecipeError
from nutshell.quant.config import GptqConfig, QuantRule, RtnConfig
from nutshell.quant.grids import AbsmaxGrid
from nutshell.quant.lqer import AsymmetricLqer, SymmetricLqer, correct, most_wrong, residual_norm
from nutshell.quant.quantizing import dequantize, quantize
from nutshell.quant.statistics import Statistics

RULE = RtnConfig(roles=("matrix",), grid=AbsmaxGrid(bits=2))
FORMS = {
    "symmetric": SymmetricLqer(rank=3),
    "symmetric in 8 bits": SymmetricLqer(rank=3, bits=8),
    "asymmetric": AsymmetricLqer(rank=3, group=8),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def draw(rows, cols, seed=0):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


def statistics_of(rows, cols, seed=0):
    inputs = draw(4 * cols, cols, seed).double() * torch.logspace(-1, 1, cols, dtype=torch.float64)
    return Statistics(inputs.T @ inputs / len(inputs), torch.logspace(-2, 2, rows, dtype=torch.float64))


def corrected_planes(weight, form, statistics=None):
    planes = quantize(weight, RULE)
    return planes, correct(planes, dequantize(planes), weight, form, statistics)


def best_error(matrix, rank):
    """The least squared error that any matrix of a rank leaves: the sum of the squares of the other singular values."""
    return (np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2).sum()


@forms
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (1, 9), (9, 1), (2, 2)])
def test_what_is_stored_is_what_is_added(form, shape):
    weight = draw(*shape)
    plain, planes = corrected_planes(weight, form)
    sides = {name.removeprefix("lqer_"): side for name, side in planes.sides.items() if name.startswith("lqer_")}
    rank = min(3, *shape)
    assert sides["left"].shape == (rank, shape[0])
    assert sides["right"].shape == (rank, shape[1])
    expected = dequantize(plain).double().numpy()
    for row in range(shape[0]):
        for col in range(shape[1]):
            for place in range(rank):
                right_scale, left_scale = sides["right_scale"][place], sides["left_scale"]
                if right_scale.ndim:
                    right_scale = right_scale[col * len(right_scale) // shape[1]]
                left = float(sides["left"][place, row]) * float(left_scale[place if len(left_scale) > 1 else 0])
                expected[row, col] += left * float(sides["right"][place, col]) * float(right_scale)
    np.testing.assert_allclose(dequantize(planes).numpy(), expected, atol=1e-5)
    assert np.array_equal(planes.codes, plain.codes)
    assert planes.spec == plain.spec


@forms
def test_codes_of_the_factors_are_as_wide_as_their_form_says(form):
    _, planes = corrected_planes(draw(40, 50), form)
    left, right = planes.sides["lqer_left"], planes.sides["lqer_right"]
    if isinstance(form, AsymmetricLqer):
        assert set(np.unique(left)) == {-2, -1, 0, 1}
        assert np.abs(right).max() == 7
        assert planes.sides["lqer_left_scale"].shape == (1,)
        assert planes.sides["lqer_right_scale"].shape == (3, 7)
    else:
        widest = 2 ** (form.bits - 1) - 1
        assert (np.abs(left).max(axis=1) == widest).all()
        assert (np.abs(right).max(axis=1) == widest).all()


def test_fine_factors_are_the_best_of_their_rank():
    for shape in ((40, 25), (25, 40)):
        weight = draw(*shape)
        plain, planes = corrected_planes(weight, SymmetricLqer(rank=5, bits=8))
        residual = (weight - dequantize(plain)).double().numpy()
        error = residual_norm(weight, dequantize(planes)) ** 2
        assert error == pytest.approx(best_error(residual, 5), rel=5e-3)


@forms
def test_every_form_takes_up_most_of_a_residual_of_low_rank(form):
    weight = draw(60, 64)
    planes = quantize(weight, RULE)
    low_rank = draw(60, 3, seed=1) @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ draw(3, 64, seed=2)
    restored = weight - low_rank  # as if this had been lost
    with_it = correct(planes, restored, weight, form, None)
    given_back = dequantize(with_it) - dequantize(planes)
    error = residual_norm(low_rank, given_back) / low_rank.norm().item()
    assert (
        error
        < {"symmetric": 0.2, "symmetric in 8 bits": 0.01, "asymmetric": 0.5}[
            next(name for name, each in FORMS.items() if each == form)
        ]
    )


@forms
def test_a_correction_never_costs_more_than_none(form):
    for seed in range(5):
        weight = draw(50, 70, seed)
        plain, planes = corrected_planes(weight, form)
        assert residual_norm(weight, dequantize(planes)) < residual_norm(weight, dequantize(plain))


def test_a_weighted_correction_leaves_the_least_loss():
    weight, statistics = draw(30, 24), statistics_of(30, 24)
    plain, planes = corrected_planes(weight, SymmetricLqer(rank=4, bits=8, weighted=True), statistics)
    _, unweighted = corrected_planes(weight, SymmetricLqer(rank=4, bits=8))
    residual = (weight - dequantize(plain)).double().numpy()
    hessian = statistics.hessian.numpy()
    values, vectors = np.linalg.eigh(hessian + 0.01 * hessian.diagonal().mean() * np.eye(24))
    root = vectors * np.sqrt(values)
    least = 0.5 * best_error(np.sqrt(statistics.row_weights.numpy())[:, None] * residual @ root, 4)
    costs = [statistics.cost(dequantize(each) - weight) for each in (planes, unweighted, plain)]
    assert costs[0] < costs[1] < costs[2]
    assert costs[0] == pytest.approx(least, rel=0.1)  # the bound has the damping in it, and the factors are rounded


def test_a_weighted_asymmetric_correction_goes_by_the_loss_too():
    weight, statistics = draw(30, 24), statistics_of(30, 24)
    costs = {}
    for weighted in (True, False):
        _, planes = corrected_planes(weight, AsymmetricLqer(rank=4, weighted=weighted), statistics)
        costs[weighted] = statistics.cost(dequantize(planes) - weight)
    assert costs[True] < costs[False]


@forms
def test_where_nothing_was_lost_nothing_is_added(form):
    weight = torch.zeros(6, 9)
    _, planes = corrected_planes(weight, form)
    assert dequantize(planes).abs().max() == 0.0


def test_the_most_wrong_are_chosen_by_norm_and_then_by_name():
    residuals = {"b": 2.0, "a": 2.0, "c": 3.0, "d": 1.0}
    assert most_wrong(residuals, 2) == {"c", "a"}
    assert most_wrong(residuals, 9) == most_wrong(residuals, "all") == set(residuals)
    assert residual_norm(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])) == 5.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lqer_right": None}, "two factors, each with its scales"),
        ({"lqer_left": np.zeros((3, 19), np.int8)}, "does not fit its matrix"),
        ({"lqer_left": np.zeros((2, 20), np.int8)}, "does not fit its matrix"),
        ({"lqer_left": np.zeros(20, np.int8)}, "does not fit its matrix"),
        ({"lqer_left": np.zeros((3, 20), np.float16)}, "does not fit its matrix"),
        ({"lqer_right_scale": np.zeros((3, 0), np.float16)}, "does not fit its matrix"),
        ({"lqer_right_scale": np.zeros((3, 31), np.float16)}, "does not fit its matrix"),
        ({"lqer_left_scale": np.zeros(2, np.float16)}, "does not fit its matrix"),
        ({"lqer_left_scale": np.zeros(3, np.float32)}, "does not fit its matrix"),
        (
            {"lqer_left": np.zeros((21, 20), np.int8), "lqer_right": np.zeros((21, 30), np.int8)},
            "does not fit its matrix",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    _, planes = corrected_planes(draw(20, 30), SymmetricLqer(rank=3))
    sides = {name: side for name, side in ({**planes.sides, **change}).items() if side is not None}
    with pytest.raises(ArtifactError, match=message):
        dequantize(CodePlanes(planes.codes, sides, planes.spec))


def test_a_rule_carries_a_correction():
    rule = decode(
        {"kind": "gptq", "roles": ["matrix"], "lqer": {"kind": "asymmetric", "rank": 4, "top": 3}}, QuantRule, where="x"
    )
    assert rule == GptqConfig(roles=("matrix",), lqer=AsymmetricLqer(rank=4, top=3, group=64))
    weighted = RtnConfig(roles=("matrix",), lqer=SymmetricLqer(weighted=True))
    assert weighted.needs_statistics
    assert weighted.uses_statistics
    assert not RtnConfig(roles=("matrix",), lqer=SymmetricLqer()).uses_statistics
    for table, message in (
        ({"kind": "asymmetric", "bits": 4}, "bits"),
        ({"kind": "symmetric", "group": 64}, "group"),
        ({"kind": "symmetric", "rank": 0}, ">= 1"),
        ({"kind": "symmetric", "top": "none"}, "top"),
    ):
        with pytest.raises(RecipeError, match=message):
            decode({"kind": "rtn", "roles": ["matrix"], "lqer": table}, QuantRule, where="x")
