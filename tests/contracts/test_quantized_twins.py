"""What every technique owes a model that sees its weights as they will be packed."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models import CASES, build_model, model_config, tokens
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.quant.config import RtnConfig
from nutshell.quant.grids import RateGrid, SdClipGrid
from nutshell.train.qat import NoiseConfig, SteConfig, quantized_twin

cases = pytest.mark.parametrize("case", CASES)
modes = pytest.mark.parametrize("qat", [SteConfig(rate_bits=4.0), NoiseConfig(rate_bits=4.0)], ids=["ste", "noise"])
# Where quantized weights live; what else a technique does to a graph, tests/contracts/test_techniques.py compiles.
HOLDERS = (
    "untied head",
    "narrow embedding",
    "bigram_hash",
    "value_embedding",
    "low_rank",
    "kronecker",
    "swiglu",
    "all together",
)
CLIP, BITS, RATE = 12.85, 6, 4.0
RULES = (
    RtnConfig(roles=("matrix",), grid=SdClipGrid(bits=BITS, sigmas=CLIP)),
    RtnConfig(roles=("embedding",), grid=RateGrid(extra_bits=0.5)),
)


def half(scale):
    return np.float16(np.float32(scale)).astype(np.float64)  # torch goes from double to half by way of single


def rounded_matrix(values, role):
    """A matrix on the exporter's grid, by the words of docs/compression.md, in float64."""
    largest = np.abs(values).max(axis=1)
    if role == "matrix":
        constant = np.ptp(values, axis=1) == 0
        scale, top = CLIP * np.where(constant, largest, np.std(values, axis=1, ddof=1)) / 31, 31
    else:
        step, top = np.sqrt(2 * np.pi * np.e) / 2 ** (RATE + 0.5), 127
        octaves = np.log2(np.maximum(np.sqrt(np.mean(values**2, axis=1)) * step, largest / top))
        middle = np.sort(octaves)[(len(octaves) - 1) // 2]
        places = np.maximum(np.rint((octaves - middle) * 4), np.ceil((np.log2(largest / top) - middle) * 4))
        first = places.min()
        scale = half(2 ** (middle + first / 4)) * 2 ** ((places - first) / 4)
    scale = half(scale)[:, None]
    return np.clip(np.rint(values / scale), -top, top) * scale


def rounded_model(config):
    """The small model with its matrices and tables rounded."""
    rounded, _ = build_model(config)
    with torch.no_grad():
        for row in ParamTable.of(rounded):
            if row.role in ("matrix", "embedding"):
                row.value.copy_(torch.from_numpy(rounded_matrix(row.value.double().numpy(), row.role)).float())
    return rounded


def loss_of(model, schedule):
    text = tokens(2, 12)
    return F.cross_entropy(model(text[:, :-1], schedule).flatten(0, 1), text[:, 1:].flatten())


def gradients(model):
    return {row.name: row.value.grad for row in ParamTable.of(model)}


@cases
def test_straight_through_has_the_loss_and_the_gradients_of_the_rounded_weights(case):
    model, schedule = build_model(model_config(**CASES[case]))
    rounded = rounded_model(model.config)
    twin = quantized_twin(model, [schedule], SteConfig(rate_bits=RATE), RULES)
    for each in (rounded, twin):
        loss_of(each, schedule).backward()
    seen, expected = gradients(model), gradients(rounded)
    assert seen.keys() == expected.keys()
    for name in seen:
        assert (seen[name] is None) == (expected[name] is None), name
        assert seen[name] is None or torch.equal(seen[name], expected[name]), name
    assert torch.equal(loss_of(twin, schedule), loss_of(rounded, schedule))
    assert loss_of(twin, schedule) != loss_of(model, schedule)


@cases
@modes
def test_the_twin_has_the_very_parameters(case, qat):
    model, schedule = build_model(model_config(**CASES[case]))
    twin = quantized_twin(model, [schedule], qat, RULES)
    twin(tokens(2, 5), schedule)
    own, shared = ParamTable.of(model), ParamTable.of(twin)
    assert [(row.name, row.role, id(row.value)) for row in own] == [
        (row.name, row.role, id(row.value)) for row in shared
    ]
    assert twin.state_dict().keys() == model.state_dict().keys()
    assert not [row.name for row in shared if row.value.is_meta]


@pytest.mark.parametrize("case", HOLDERS)
@modes
def test_one_graph_a_schedule_without_breaks_and_equal_to_eager(case, qat):
    config = model_config(**CASES[case])
    looped, flat = config.depth.parse(), config.depth.variant(f"0-{config.dims.num_blocks - 1}")
    model = LM(config, [looped, flat])
    model.init_weights(0)
    twin = quantized_twin(model, [looped, flat], qat, RULES)
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(twin, backend=count, fullgraph=True, dynamic=False)
    text = tokens(2, 8)
    for seed, schedule in enumerate((looped, flat, looped, flat)):
        drawn = []
        for run in (compiled, twin):
            torch.manual_seed(seed)
            with torch.no_grad():
                drawn.append(run(text, schedule))
        torch.testing.assert_close(*drawn)
    assert len(graphs) == len({looped, flat})


@cases
@modes
def test_bf16_stays_near_fp32(case, qat):
    model, schedule = build_model(model_config(**CASES[case]))
    twin = quantized_twin(model, [schedule], qat, RULES)
    text, logits = tokens(2, 12), {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        with torch.no_grad():
            logits[dtype] = twin(text, schedule, dtype=dtype)
    wide, narrow = logits.values()
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().mean() < 0.03 * wide.abs().mean()


@pytest.mark.parametrize("case", HOLDERS)
@pytest.mark.parametrize("order", ["plain first", "twin first"])
@torch._dynamo.config.patch(recompile_limit=64)  # as TrainingLoss has it
@torch.no_grad()
def test_blocks_compiled_for_the_one_are_not_run_for_the_other(case, order):
    model, schedule = build_model(model_config(**CASES[case]))
    by_hand = [build_model(model.config)[0], rounded_model(model.config)]
    pair = [model, quantized_twin(model, [schedule], SteConfig(rate_bits=RATE), RULES)]
    if order == "twin first":
        by_hand.reverse()
        pair.reverse()
    torch._dynamo.reset()
    for each in pair:
        for block in each.blocks:
            block.compile(backend="eager", fullgraph=True, dynamic=False)
    for each, uncompiled in zip(pair, by_hand, strict=True):
        torch.testing.assert_close(loss_of(each, schedule), loss_of(uncompiled, schedule), atol=0, rtol=1e-6)
    for value in model.parameters():
        value.mul_(1.5)
    for each, uncompiled in zip(pair, by_hand, strict=True):
        moved = loss_of(each, schedule)
        assert (moved - loss_of(uncompiled, schedule)).abs() > 1e-3, "compiled code looks at what it saw first"
