"""Penalties: what they are, what their gradients do, and when they act."""

import math
import statistics

import numpy as np
import pytest
import torch

from models import CASES, build_model, model_config
from nutshell.codec import chain
from nutshell.config.loader import decode
from nutshell.errors import RecipeError
from nutshell.nn.params import ParamTable
from nutshell.quant.by_role import SeenGrid
from nutshell.quant.config import RtnConfig
from nutshell.quant.grids import AbsmaxGrid, BinaryGrid, RateGrid, SdClipGrid
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import quantize
from nutshell.train.penalties import NuclearConfig, PenaltyConfig, RateConfig
from nutshell.train.penalties.nuclear import nuclear_norm
from nutshell.train.penalties.rate import expected_bits

FIXED = (RtnConfig(roles=("matrix",), grid=SdClipGrid(bits=6, sigmas=12.85)),)
FITTED = (RtnConfig(roles=("matrix", "embedding")),)
GRIDS = {
    "deviation": SeenGrid(SdClipGrid(bits=5, sigmas=9.0)),
    "largest": SeenGrid(AbsmaxGrid(bits=5)),
    "rate": SeenGrid(RateGrid(), Precision(3.5)),
    "groups": SeenGrid(AbsmaxGrid(bits=5, per=8)),
}
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def draw(rows, cols, seed=0):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(7, 7), (5, 9), (9, 5), (1, 6), (6, 1)])
def test_the_nuclear_norm_and_its_gradient_by_differences(shape):
    weight = draw(*shape).requires_grad_()
    value = nuclear_norm(weight)
    value.backward()
    wide = weight.detach().double().numpy()
    # The norm is the trace of the root of W W^T: eigenvalues, not singular values.
    small = wide @ wide.T if shape[0] <= shape[1] else wide.T @ wide
    assert value.item() == pytest.approx(np.sqrt(np.linalg.eigvalsh(small)).sum(), rel=1e-5)
    for row in range(shape[0]):
        for col in range(shape[1]):
            ends = []
            for move in (1e-5, -1e-5):
                moved = wide.copy()
                moved[row, col] += move
                ends.append(np.linalg.svd(moved, compute_uv=False).sum())
            assert weight.grad[row, col].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-4)


def test_the_nuclear_gradient_is_torchs_own_where_that_is_defined():
    weight, twin = draw(20, 12).requires_grad_(), draw(20, 12).requires_grad_()
    nuclear_norm(weight).backward()
    torch.linalg.svdvals(twin).sum().backward()
    torch.testing.assert_close(weight.grad, twin.grad, atol=1e-5, rtol=1e-5)


def test_where_singular_values_are_zero_or_equal_the_nuclear_gradient_is_the_smallest():
    zero = torch.zeros(4, 6, requires_grad=True)
    nuclear_norm(zero).backward()
    assert zero.grad.abs().max() == 0.0
    rank_one = (draw(6, 1) @ draw(1, 4, seed=1)).requires_grad_()
    nuclear_norm(rank_one).backward()
    expected = rank_one.detach() / torch.linalg.matrix_norm(rank_one.detach())
    torch.testing.assert_close(rank_one.grad, expected, atol=1e-5, rtol=0)
    orthogonal = torch.linalg.qr(draw(5, 5)).Q.requires_grad_()
    nuclear_norm(orthogonal).backward()
    torch.testing.assert_close(orthogonal.grad, orthogonal.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["none", "low_rank", "kronecker"])
def test_the_nuclear_penalty_sums_over_matrices_when_it_is_due(case):
    model, _ = build_model(model_config(**CASES[case]))
    table = ParamTable.of(model)
    penalty = NuclearConfig(weight=0.25, every=3).build(table, FIXED)
    sums = [
        np.linalg.svd(row.value.detach().double().numpy(), compute_uv=False).sum()
        for row in table
        if row.role == "matrix"
    ]
    assert [penalty(step) is None for step in range(7)] == [False, True, True, False, True, True, False]
    assert penalty(3).item() == pytest.approx(0.25 * sum(sums), rel=1e-5)
    assert penalty(3).dtype == torch.float32
    penalty(0).backward()
    assert {row.role for row in table if row.value.grad is not None} == {"matrix"}


def cells(wide, per):
    """What shares a scale."""
    if per == "tensor":
        return [wide.ravel()]
    if per == "row":
        return list(wide)
    assert wide.shape[1] % per == 0
    return [row[first : first + per] for row in wide for first in range(0, len(row), per)]


def split_over_codes(weight, grid):
    """For each weight the two codes around it and its shares of them, in plain float64 loops."""
    top, met = grid.grid.largest, []
    for row in cells(weight.double().numpy(), getattr(grid.grid, "per", "row")):
        deviation, largest = math.sqrt(sum(value**2 for value in row) / len(row)), max(map(abs, row))
        unbiased = statistics.stdev(row) if len(set(row)) > 1 else largest
        if isinstance(grid.grid, RateGrid):
            step = max(deviation * math.sqrt(2 * math.pi * math.e) / 2**grid.precision.rate_bits, largest / 127)
        else:
            step = (grid.grid.sigmas * unbiased if isinstance(grid.grid, SdClipGrid) else largest) / top
        for value in row:
            x = min(max(value / step, -top), top) if largest else 0.0
            low = math.floor(x)
            met += [(low + top, low + 1 - x), (low + 1 + top, x - low)] if low < top else [(2 * top, 1.0)]
    return met


def ideal_lengths(met, grid):
    """The bits of each code, by how often it is met, and half a time more."""
    counts = [0.5] * (2 * grid.grid.largest + 1)
    for code, share in met:
        counts[code] += share
    return [math.log2(sum(counts) / count) for count in counts]


def bits_by_hand(weight, grid):
    met = split_over_codes(weight, grid)
    lengths = ideal_lengths(met, grid)
    return sum(share * lengths[code] for code, share in met)


@pytest.mark.parametrize("grid", [*GRIDS.values(), SeenGrid(AbsmaxGrid(bits=5, per="tensor"))])
def test_expected_bits_by_hand(grid):
    weight = draw(6, 40) * torch.logspace(-2, 1, 6)[:, None]
    weight[2] = 0.0
    weight[3, 0] = 100.0
    assert expected_bits(weight, grid).item() == pytest.approx(bits_by_hand(weight, grid), rel=1e-5)


@grids
def test_the_rates_gradient_by_differences(grid):
    weight = draw(5, 32).requires_grad_()
    expected_bits(weight, grid).backward()
    lengths = ideal_lengths(split_over_codes(weight.detach(), grid), grid)
    for row, col in ((0, 0), (1, 7), (4, 29), (2, 3)):
        ends = []
        for move in (1e-6, -1e-6):
            moved = weight.detach().double()
            moved[row, col] += move
            ends.append(sum(share * lengths[code] for code, share in split_over_codes(moved, grid)))
        assert weight.grad[row, col].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-3)


@grids
def test_the_rate_and_its_gradient_do_not_see_the_scale_of_a_row(grid):
    weight = draw(8, 200).requires_grad_()
    factors = torch.tensor([0.5, 1.0, 3.0, 0.01, 10.0, 0.25, 70.0, 2.0])
    scaled = (draw(8, 200) * factors[:, None]).requires_grad_()
    bits = [expected_bits(each, grid) for each in (weight, scaled)]
    assert bits[1].item() == pytest.approx(bits[0].item(), rel=1e-5)
    for each, value in zip((weight, scaled), bits, strict=True):
        value.backward()
        along = (each.detach() * each.grad).sum(dim=1)
        assert (along / (each.detach().norm(dim=1) * each.grad.norm(dim=1))).abs().max() < 1e-5
        assert each.grad.abs().max() > 0.0


def test_a_row_of_zeros_has_no_gradient_and_spoils_none():
    weight = draw(4, 50)
    weight[1] = 0.0
    for grid in GRIDS.values():
        value = weight.clone().requires_grad_()
        expected_bits(value, grid).backward()
        assert value.grad[1].abs().max() == 0.0
        assert value.grad.isfinite().all()
        assert value.grad[0].abs().max() > 0.0


def coded_bytes(weight, grid):
    """What the exporter's coder makes of the codes."""
    rule = RtnConfig(roles=("matrix",), grid=grid.grid)
    return len(chain.encode(quantize(weight.detach(), rule, precision=grid.precision).codes, ("ans",)))


@grids
def test_descent_on_the_rate_alone_makes_the_real_coder_write_less(grid):
    weight = draw(64, 128).requires_grad_()
    first, optimizer = coded_bytes(weight, grid), torch.optim.Adam([weight], lr=0.01)
    assert expected_bits(weight, grid).item() / 8 == pytest.approx(first, rel=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        expected_bits(weight, grid).backward()
        optimizer.step()
    assert coded_bytes(weight, grid) < 0.85 * first


def test_shrinking_all_weights_saves_no_byte():
    for grid in GRIDS.values():
        assert coded_bytes(0.25 * draw(64, 128), grid) == coded_bytes(draw(64, 128), grid)


def test_the_rate_penalty_is_bits_a_weight_over_the_roles_that_are_quantized():
    model, _ = build_model(model_config())
    table = ParamTable.of(model)
    penalty = RateConfig(weight=0.02, rate_bits=3.5).build(table, FITTED)
    rows = [row for row in table if row.role in ("matrix", "embedding")]
    bits = sum(bits_by_hand(row.value.detach(), SeenGrid(RateGrid(), Precision(3.5))) for row in rows)
    assert penalty(5).item() == pytest.approx(0.02 * bits / sum(row.value.numel() for row in rows), rel=1e-4)
    penalty(5).backward()
    assert {row.name for row in table if row.value.grad is not None} == {row.name for row in rows}


@pytest.mark.parametrize(
    ("penalty", "rules", "message"),
    [
        (RateConfig(weight=1.0), (), "train.penalties 'rate' has no effect: pack.rules quantizes nothing"),
        (RateConfig(weight=1.0), FITTED, "train.penalties 'rate' needs rate_bits"),
        (RateConfig(weight=1.0, rate_bits=4.0), FIXED, "train.penalties 'rate'.rate_bits has no effect"),
        (RateConfig(weight=1.0, roles=("embedding",)), FIXED, "no rule of pack.rules quantizes it"),
    ],
)
def test_a_rate_that_does_not_go_with_the_rules_is_refused(penalty, rules, message):
    with pytest.raises(ValueError, match=r"train\.penalties 'rate'") as caught:
        penalty.check(rules)
    assert message in str(caught.value)


def test_a_rate_has_nothing_to_say_of_two_levels():
    rules = (RtnConfig(roles=("matrix",), grid=BinaryGrid()),)
    with pytest.raises(ValueError, match="has no effect on 'matrix': whichever it is, a code of two costs a bit"):
        RateConfig(weight=1.0).check(rules)


def test_penalties_that_go_with_any_rules_check_nothing():
    NuclearConfig(weight=1.0).check(())
    RateConfig(weight=1.0).check(FIXED)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "nuclear", "weight": 0.0}, "weight must be positive, got 0.0"),
        ({"kind": "rate", "weight": -1.0}, "weight must be positive, got -1.0"),
        ({"kind": "nuclear", "weight": 1.0, "every": 0}, "every must be at least 1, got 0"),
        ({"kind": "nuclear", "weight": 1.0, "rate_bits": 4.0}, "rate_bits"),
        ({"kind": "rate"}, "weight"),
        ({"kind": "ridge", "weight": 1.0}, "ridge"),
    ],
)
def test_penalties_that_mean_nothing_are_refused(table, message):
    with pytest.raises(RecipeError) as caught:
        decode(table, PenaltyConfig, where="test")
    assert message in str(caught.value)
