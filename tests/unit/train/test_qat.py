"""Modes of quantization-aware training: what is seen is what will be packed, and what is learnt is the weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models import SMALL, build_model, model_config, tokens
from nutshell.artifact.config import PackConfig
from nutshell.artifact.load import load
from nutshell.artifact.pack import Contents, Packer
from nutshell.config.loader import decode, to_toml
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.errors import RecipeError
from nutshell.nn.params import ParamTable
from nutshell.quant.by_role import SeenGrid
from nutshell.quant.config import GptqConfig, RtnConfig, TrellisConfig
from nutshell.quant.grids import (
    AbsmaxGrid,
    BinaryGrid,
    HessianSdClipGrid,
    MixedRateGrid,
    PercentileGrid,
    PercentileSearchGrid,
    RateGrid,
    SdClipGrid,
    SlopeGrid,
    TernaryGrid,
)
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import dequantize, quantize
from nutshell.recipe import Recipe
from nutshell.train.qat import NoiseConfig, QatConfig, SnapConfig, SteConfig, quantized_twin, snap_

VOCAB = 300
ABSMAX = (
    RtnConfig(roles=("matrix",), grid=AbsmaxGrid(bits=6)),
    RtnConfig(roles=("embedding",), grid=AbsmaxGrid(bits=8)),
)
SIGMAS = (RtnConfig(roles=("matrix",), grid=SdClipGrid(bits=6, sigmas=12.85)),)
FITTED = (RtnConfig(roles=("matrix",)), RtnConfig(roles=("embedding",), grid=RateGrid(extra_bits=1.5)))

FEW = (
    RtnConfig(roles=("matrix",), grid=TernaryGrid()),
    RtnConfig(roles=("embedding",), grid=BinaryGrid(per="tensor")),
)
GROUPS = (RtnConfig(roles=("matrix", "embedding"), grid=AbsmaxGrid(bits=3, per=5)),)
SEARCHED = (
    RtnConfig(roles=("matrix",), grid=PercentileSearchGrid(bits=4, by="row")),
    RtnConfig(roles=("embedding",), grid=PercentileGrid(bits=8, quantile=0.9999984, floor=1.0)),
)
# Vectors stay in fp16: of this model's gates only one is a matrix.
GATES = (*ABSMAX, RtnConfig(roles=("gate",), grid=AbsmaxGrid(bits=8)))

SLOPED = (TrellisConfig(roles=("matrix",), grid=SlopeGrid()),)
AWARE = (RtnConfig(roles=("matrix",), grid=HessianSdClipGrid(bits=6, sigmas=12.85)),)
MIXED = (RtnConfig(roles=("matrix",), grid=MixedRateGrid()),)
TRELLIS = (TrellisConfig(roles=("matrix",)),)
GPTQ = (GptqConfig(roles=("matrix",), grid=AbsmaxGrid(bits=6)),)


def loss_of(model, schedule):
    text = tokens(2, 12)
    return F.cross_entropy(model(text[:, :-1], schedule).flatten(0, 1), text[:, 1:].flatten())


def seen(twin, name):
    """What the last forward of a twin computed with, where a parameter's name stands in its code."""
    owner, _, leaf = name.rpartition(".")
    return getattr(twin.get_submodule(owner), leaf).detach()


@pytest.fixture(scope="module")
def tokenizer():
    text = " ".join(f"{word} {number}" for number in range(400) for word in ("alpha", "beta", "gamma", "delta"))
    return train_tokenizer([text.encode()], vocab_size=VOCAB)


@pytest.mark.parametrize(
    ("rules", "rate"),
    [(ABSMAX, None), (SIGMAS, None), (FITTED, 3.7), (FEW, None), (GROUPS, None), (SEARCHED, None), (GATES, None)],
)
def test_straight_through_sees_the_very_weights_that_the_artifact_gives_back(tokenizer, rules, rate):
    table = {
        "about": "test",
        "model": SMALL
        | {
            "vocab_size": VOCAB,
            "values": [{"kind": "value_embedding", "dim": 6}],
            "heads": [{"kind": "attention_gate", "inputs": 5}],
            "inputs": [{"kind": "smear_gate"}],
        },
        "train": {"budget": {"steps": 1}, "batch_size": 1, "seq_len": 16},
        "pack": {"budget_bytes": 40_000, "rules": []},
        "score": {"stride": 8},
    }
    recipe = decode(table, Recipe, where="test")
    model, schedule = build_model(recipe.model)
    twin = quantized_twin(model, [schedule], SteConfig(rate_bits=rate), rules)
    twin(tokens(1, 4), schedule)
    contents = Contents.of(
        {name: value.detach() for name, value in model.named_parameters()},
        ParamTable.of(model),
        recipe=to_toml(recipe),
        tokenizer=tokenizer.model_bytes,
    )
    loaded = load(Packer(contents, PackConfig(budget_bytes=40_000, rules=rules)).pack(rate).content)
    covered = {role for rule in rules for role in rule.roles}
    compared = [row.name for row in ParamTable.of(model) if row.role in covered and row.value.ndim == 2]
    assert len(compared) >= 24
    for name in compared:
        assert torch.equal(seen(twin, name), loaded.model.get_parameter(name)), name


def test_a_role_that_is_left_out_is_seen_as_it_is():
    model, schedule = build_model(model_config())
    twin = quantized_twin(model, [schedule], SteConfig(roles=("matrix",)), ABSMAX)
    twin(tokens(1, 4), schedule)
    assert twin.embedding is model.embedding
    assert not torch.equal(seen(twin, "blocks.0.mlps.0.up.weight"), model.blocks[0].mlps[0].up.weight)


def test_a_step_on_the_twins_loss_moves_the_models_weights_and_both_see_it():
    model, schedule = build_model(model_config())
    twin = quantized_twin(model, [schedule], SteConfig(), ABSMAX)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    first = loss_of(twin, schedule)
    first.backward()
    with torch.no_grad():
        for row in ParamTable.of(model):
            row.value.sub_(0.1 * row.value.grad)
    assert [name for name, value in model.named_parameters() if torch.equal(before[name], value)] == []
    assert loss_of(twin, schedule) < first


def test_a_model_with_a_twin_is_the_model_without_to_the_bit():
    losses, grads = [], []
    for with_twin in (False, True):
        model, schedule = build_model(model_config())
        if with_twin:
            loss_of(quantized_twin(model, [schedule], NoiseConfig(), ABSMAX), schedule)
        loss = loss_of(model, schedule)
        loss.backward()
        losses.append(loss)
        grads.append([value.grad for value in model.parameters()])
    assert torch.equal(*losses)
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


@pytest.mark.parametrize("mode", [SteConfig, NoiseConfig])
def test_what_is_seen_comes_from_the_fp32_master_also_in_bf16(mode):
    model, schedule = build_model(model_config())
    twin = quantized_twin(model, [schedule], mode(), ABSMAX)
    weights = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        twin(tokens(1, 4), schedule, dtype=dtype)
        weights[dtype] = seen(twin, "blocks.1.attentions.0.q.weight")
    assert weights[torch.bfloat16].dtype == torch.float32
    assert torch.equal(*weights.values())


@pytest.mark.parametrize("grid", [SeenGrid(SdClipGrid(bits=6, sigmas=12.85)), SeenGrid(RateGrid(), Precision(4.0))])
def test_noise_is_uniform_over_a_step_and_as_large_as_the_grids_error(grid):
    generator = torch.Generator().manual_seed(0)
    weight = torch.logspace(-2, 1, 30)[:, None] * torch.randn(30, 20_000, generator=generator)
    torch.manual_seed(1)
    moved = NoiseConfig().view(grid)(weight) - weight
    deviation = np.sqrt((weight.double().numpy() ** 2).mean(axis=1))
    factor = 12.85 / 31 if isinstance(grid.grid, SdClipGrid) else np.sqrt(2 * np.pi * np.e) / 2**4
    if isinstance(grid.grid, RateGrid):  # whose steps are quarters of an octave about the median
        middle = np.sort(deviation)[14]
        deviation = middle * 2 ** (np.rint(4 * np.log2(deviation / middle)) / 4)
    in_steps = moved.double().numpy() / (factor * deviation)[:, None]
    assert np.abs(in_steps).max() == pytest.approx(0.5, rel=2e-3)  # a scale in fp16 is off by up to 2^-11
    shares, _ = np.histogram(in_steps, bins=10, range=(-0.5, 0.5))
    np.testing.assert_allclose(shares / in_steps.size, 0.1, rtol=0.02)
    error = ((grid.rounded(weight) - weight).double().numpy() / (factor * deviation)[:, None]) ** 2
    assert (in_steps**2).mean() == pytest.approx(error.mean(), rel=0.01)
    assert (in_steps**2).mean() == pytest.approx(1 / 12, rel=0.01)


@pytest.mark.parametrize("grid", [AbsmaxGrid(bits=3, per=4), TernaryGrid(per="tensor")], ids=["groups", "tensor"])
def test_noise_goes_by_the_step_of_each_weights_cell(grid):
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    moved = torch.stack([NoiseConfig().view(SeenGrid(grid))(weight) - weight for _ in range(2000)])
    codes = quantize(weight, RtnConfig(roles=(), grid=grid))
    scale = torch.from_numpy(codes.sides["scale"]).float()
    steps = scale.repeat_interleave(4, dim=1) if scale.ndim == 2 else scale.expand(6, 8)
    torch.testing.assert_close(moved.abs().amax(dim=0), steps / 2, rtol=0.01, atol=0)


def test_what_is_seen_for_a_trellis_is_as_far_off_as_the_trellis_is():
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    rules = (TrellisConfig(roles=("matrix",), states=8, grid=RateGrid(extra_bits=0.5)),)
    for rate in (3.0, 4.5):
        precision = Precision(rate)
        error = (dequantize(quantize(weight, rules[0], precision=precision)) - weight).square().mean()
        for mode in (SteConfig(rate_bits=rate), NoiseConfig(rate_bits=rate)):
            moved = mode.view(mode.grids(rules)["matrix"])(weight) - weight
            assert moved.square().mean().item() == pytest.approx(error.item(), rel=0.03)


def test_what_is_seen_for_gptq_is_rounding_on_its_grid():
    grid = SdClipGrid(bits=6, sigmas=12.85)
    assert SteConfig().grids((GptqConfig(roles=("matrix",), grid=grid),)) == {"matrix": SeenGrid(grid)}


def test_the_gradient_of_noise_is_that_of_the_moved_weights():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    moved = NoiseConfig().view(SeenGrid(AbsmaxGrid(bits=4)))(weight)
    moved.retain_grad()
    (moved**3).sum().backward()
    assert torch.equal(weight.grad, moved.grad)


def test_noise_is_one_draw_a_forward_for_all_visits_and_goes_by_the_seed():
    model, schedule = build_model(model_config())
    twin = quantized_twin(model, [schedule], NoiseConfig(), ABSMAX)
    used = []
    twin.blocks[1].mlps[0].up.register_forward_pre_hook(lambda module, _: used.append(module.weight.detach().clone()))
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        twin(tokens(1, 4), schedule)
    assert len(used) == 6  # block 1 runs twice
    assert all(torch.equal(used[number], used[number + 1]) for number in (0, 2, 4))
    assert torch.equal(used[0], used[4])
    assert not torch.equal(used[0], used[2])


def test_snap_puts_the_weights_on_the_grid_and_leaves_the_rest():
    model, _ = build_model(model_config())
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    qat = SnapConfig(roles=("matrix",))
    snap_(ParamTable.of(model), qat, ABSMAX)
    for row in ParamTable.of(model):
        if row.role != "matrix":
            assert torch.equal(row.value, before[row.name])
            continue
        for weights, old in zip(row.value.detach().double().numpy(), before[row.name].double().numpy(), strict=True):
            scale = np.float64(np.float16(np.float32(np.abs(old).max() / 31)))
            np.testing.assert_array_equal(weights, np.clip(np.rint(old / scale), -31, 31) * scale)
    once = {name: value.detach().clone() for name, value in model.named_parameters()}
    snap_(ParamTable.of(model), qat, ABSMAX)
    assert all(torch.equal(once[name], value) for name, value in model.named_parameters())


def test_snap_undoes_small_updates_and_keeps_large_ones():
    model, _ = build_model(model_config())
    table, qat = ParamTable.of(model), SnapConfig()
    snap_(table, qat, ABSMAX)
    weight = model.blocks[0].mlps[0].up.weight
    row = weight[0].detach().clone()
    step, place = row.abs().max() / 31, int(row.abs().argmin())
    for update, stays in ((0.4, True), (0.6, False)):
        with torch.no_grad():
            weight[0, place] = row[place] + update * step
        snap_(table, qat, ABSMAX)
        assert torch.equal(weight[0], row) == stays


def test_a_grid_by_deviation_would_grow_with_every_snap():
    weight = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    snapped, step = SeenGrid(SdClipGrid(bits=6, sigmas=12.85)).rounded(weight), 12.85 / 31
    growth = (snapped.square().mean() / weight.square().mean()).sqrt().item() - 1
    assert growth == pytest.approx(step**2 / 24, rel=0.05)


def test_snap_is_due_after_every_so_many_steps():
    assert [step for step in range(12) if SnapConfig(every=4).is_due(step)] == [3, 7, 11]


@pytest.mark.parametrize(
    ("qat", "rules", "message"),
    [
        (SteConfig(), (), "train.qat has no effect: pack.rules quantizes nothing"),
        (SteConfig(roles=()), ABSMAX, "train.qat has no effect: no role is listed"),
        (SteConfig(roles=("matrix", "matrix")), ABSMAX, "train.qat.roles names a role twice: ['matrix', 'matrix']"),
        (NoiseConfig(roles=("embedding",)), SIGMAS, "no effect on 'embedding': no rule of pack.rules quantizes it"),
        (SteConfig(), FITTED, "train.qat needs rate_bits: pack.rules leaves the precision of 'matrix' to the budget"),
        (NoiseConfig(rate_bits=4.0), SIGMAS, "train.qat.rate_bits has no effect: pack.rules fixes the bits of"),
        (SteConfig(roles=("embedding",), rate_bits=4.0), (*SIGMAS, ABSMAX[1]), "rate_bits has no effect"),
        (SteConfig(rate_bits=4.0), SLOPED, "train.qat cannot foresee 'matrix': grid 'slope' takes its steps from a"),
        (NoiseConfig(), AWARE, "train.qat cannot foresee 'matrix': grid 'hessian_sd_clip' takes its steps from a"),
        (SteConfig(rate_bits=4.0), MIXED, "train.qat cannot foresee 'matrix': grid 'mixed_rate' takes its steps"),
        (SteConfig(), TRELLIS, "train.qat needs rate_bits: pack.rules leaves the precision of 'matrix' to the budget"),
        (SnapConfig(), TRELLIS, "train.qat 'snap' cannot hold 'matrix' on its grid: the steps of 'rate' change with"),
        (SnapConfig(), GPTQ, "train.qat 'snap' cannot hold 'matrix' on its grid: method 'gptq' chooses"),
        (SnapConfig(), SIGMAS, "train.qat 'snap' cannot hold 'matrix' on its grid"),
        (SnapConfig(), FITTED, "train.qat 'snap' cannot hold 'matrix' on its grid"),
        (SnapConfig(roles=("embedding",)), FITTED, "train.qat 'snap' cannot hold 'embedding' on its grid"),
    ],
)
def test_settings_that_do_not_go_with_the_rules_are_refused(qat, rules, message):
    with pytest.raises(ValueError, match=r"train\.qat") as caught:
        qat.grids(rules)
    assert message in str(caught.value)


def test_snap_may_spare_a_role_by_deviation():
    assert SnapConfig(roles=("embedding",)).grids((*SIGMAS, ABSMAX[1])) == {"embedding": SeenGrid(AbsmaxGrid(bits=8))}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "snap", "every": 0}, "every must be at least 1, got 0"),
        ({"kind": "snap", "rate_bits": 4.0}, "rate_bits"),
        ({"kind": "ste", "every": 2}, "every"),
        ({"kind": "noise", "rate_bits": 9.0}, "<= 8"),
        ({"kind": "dither"}, "dither"),
    ],
)
def test_settings_that_a_mode_does_not_have_are_refused(table, message):
    with pytest.raises(RecipeError) as caught:
        decode(table, QatConfig, where="test")
    assert message in str(caught.value)
