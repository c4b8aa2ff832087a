"""What every registered technique and residual rule owes the model, alone and together."""

import typing

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models import (
    ALL_TOGETHER,
    BOS,
    CASES,
    TECHNIQUES,
    VOCAB,
    build_model,
    document,
    model_config,
    tokens,
    within_documents,
)
from nutshell.config.struct import kind_of
from nutshell.model import entry, residual, skips, techniques
from nutshell.model.accounting import count_params
from nutshell.model.lm import LM
from nutshell.nn.cache import KVCache
from nutshell.nn.matrices import MatrixConfig
from nutshell.nn.params import ROLES, ParamTable
from one_by_one import read_one_by_one

cases = pytest.mark.parametrize("case", CASES)
# What scores, and what trains in short windows.
computes = pytest.mark.parametrize(
    ("attend_kind", "dtype"), [("fused", torch.float32), ("products", torch.bfloat16)], ids=["scoring", "training"]
)
ACROSS_DOCUMENTS = ("smear_gate across documents", "stream_smear across documents")
IDENTITY_AT_INIT = (
    "x0_mix",
    "x0_mix by visit",
    "x0_mix by deviation",
    "depth_embedding",
    "branch_scale",
    "branch_scale by visit",
    "branch_scale by deviation",
    "film",
    "film with shift",
    "film with soft cap",
    "norm_gain",
    "norm_gain by block",
    "bigram_hash",
    "smear_gate by token",
    "attention_gate",
)


def kinds(union) -> set[str]:
    """Name the members of a kind table, which is a union or, with one member, that member."""
    return {member.__struct_config__.tag for member in typing.get_args(union) or (union,)}


def flat_schedule(config):
    """Run every block once."""
    return config.depth.variant(f"0-{config.dims.num_blocks - 1}")


def dead_as_published(config):
    """Name the gates that the study counts though they mix x0 with itself: those of a first block that runs once."""
    entries = config.residual.entry
    first_runs_once = config.depth.parse().num_visits(0) == 1
    if first_runs_once and entries and kind_of(entries[0]) == "birkhoff" and not entries[0].blocks:
        return {"blocks.0.residual.entry.0.gate.0"}
    return set()


def test_every_registered_kind_is_under_contract():
    tables = (
        techniques.InputConfig,
        techniques.ModulateConfig,
        techniques.ValueConfig,
        techniques.HeadConfig,
        techniques.LogitConfig,
        residual.ResidualConfig,
        entry.EntryConfig,
        skips.JoinConfig,
        techniques.MLPConfig,
        MatrixConfig,
    )
    assert set().union(*map(kinds, tables)) <= TECHNIQUES.keys() | {"relu2", "dense"}


@cases
def test_parameters_are_counted_from_the_configuration_alone_and_have_roles(case):
    config = model_config(**CASES[case])
    schedules = [config.depth.parse(), flat_schedule(config)]
    table = ParamTable.of(LM(config, schedules))
    assert table.count() == count_params(config, schedules)
    assert {row.role for row in table} <= set(ROLES)


@computes
@cases
def test_no_token_sees_a_later_one(case, attend_kind, dtype):
    model, schedule = build_model(model_config(**CASES[case]))
    clean = tokens(2, 12)
    flipped = clean.clone()
    flipped[0, 7] = (flipped[0, 7] + 1) % VOCAB
    with torch.no_grad():
        logits = [model(text, schedule, dtype=dtype, attend_kind=attend_kind) for text in (clean, flipped)]
    difference = (logits[0] - logits[1]).abs()
    assert difference[0, :7].max() == 0.0
    assert difference[1].max() == 0.0, "a row of the batch sees another"
    assert difference[0, 7].max() > 0.0
    assert difference[0, 8:].max() > 0.0, "attention carries nothing forward"


@computes
@cases
def test_no_document_sees_another(case, attend_kind, dtype):
    model, schedule = build_model(within_documents(case))
    row = torch.cat([document(5)[1:], document(1), document(6, seed=1), document(4, seed=2)])  # begins in mid-document
    clean = row.repeat(len(row), 1)
    flipped = clean.clone()
    flipped.fill_diagonal_(VOCAB - 1)  # row t has another token at t, unless a document begins there
    flipped[clean == BOS] = BOS
    with torch.no_grad():
        logits = [model(text, schedule, dtype=dtype, attend_kind=attend_kind) for text in (clean, flipped)]
    difference = (logits[0] - logits[1]).abs().amax(dim=-1)
    number, position = (row == BOS).cumsum(dim=0), torch.arange(len(row))
    later_documents = number > number[:, None]
    own_document = (number == number[:, None]) & (position > position[:, None])
    assert difference[own_document].max() > 0.0
    if case in ACROSS_DOCUMENTS:
        assert difference[later_documents].max() > 0.0
    else:
        assert difference[later_documents].max() == 0.0


@cases
def test_a_document_behind_another_reads_as_alone_also_through_the_cache(case):
    model, schedule = build_model(within_documents(case))
    first, second = document(5)[1:], document(7, seed=1)
    packed = torch.cat([first, second])[None]
    cache = KVCache(capacity=11)
    with torch.no_grad():
        alone = model(second[None], schedule)
        behind = model(packed, schedule)[:, 4:]
        pieces = [model(packed[:, :3], schedule, cache=cache), model(packed[:, 3:6], schedule, cache=cache)]
        pieces += [model(packed[:, t : t + 1], schedule, cache=cache) for t in range(6, 11)]
    stepped = torch.cat(pieces, dim=1)[:, 4:]
    torch.testing.assert_close(stepped, behind, atol=2e-5, rtol=1e-5)
    if case in ACROSS_DOCUMENTS:
        assert (behind - alone).abs().max() > 1e-3
    else:
        torch.testing.assert_close(behind, alone, atol=2e-5, rtol=1e-5)


@cases
def test_the_cached_path_is_the_full_forward(case):
    model, schedule = build_model(model_config(**CASES[case]))
    text = tokens(3, 11)
    cache = KVCache(capacity=11)
    with torch.no_grad():
        full = model(text, schedule)
        pieces = [model(text[:, :4], schedule, cache=cache), model(text[:, 4:6], schedule, cache=cache)]
        pieces += [model(text[:, t : t + 1], schedule, cache=cache) for t in range(6, 11)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), full, atol=2e-5, rtol=1e-5)


@cases
def test_a_cache_that_forgets_is_one_token_at_a_time_with_a_window_of_keys(case):
    model, schedule = build_model(model_config(**CASES[case]))
    text, context, stride = tokens(2, 17), 7, 3
    expected = read_one_by_one(model, schedule, text, context=context, stride=stride)
    cache, pieces = KVCache(capacity=context), []
    with torch.no_grad():
        for start, stop in ((0, 7), (7, 10), (10, 13), (13, 16), (16, 17)):
            cache.forget_all_but(context - stride if start else 0)
            pieces.append(model(text[:, start:stop], schedule, cache=cache))
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, atol=2e-5, rtol=1e-5)


@cases
def test_gradients_reach_every_parameter(case):
    model, schedule = build_model(model_config(**CASES[case]))
    text = tokens(2, 12)
    F.cross_entropy(model(text[:, :-1], schedule).flatten(0, 1), text[:, 1:].flatten()).backward()
    dead = {row.name for row in ParamTable.of(model) if row.value.grad is None or row.value.grad.abs().max() == 0.0}
    assert dead == dead_as_published(model.config)


@cases
def test_one_graph_a_schedule_without_breaks_and_equal_to_eager(case):
    config = model_config(**CASES[case])
    model, looped = build_model(config)
    flat = flat_schedule(config)
    model = LM(config, [looped, flat])
    model.init_weights(0)
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=False)
    text = tokens(2, 8)
    with torch.no_grad():
        for schedule in (looped, flat, looped, flat):
            torch.testing.assert_close(compiled(text, schedule), model(text, schedule))
    assert len(graphs) == len({looped, flat})


@cases
def test_bf16_stays_near_fp32_and_returns_fp32_logits(case):
    model, schedule = build_model(model_config(**CASES[case]))
    text = tokens(2, 12)
    with torch.no_grad():
        wide, narrow = model(text, schedule), model(text, schedule, dtype=torch.bfloat16)
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().mean() < 0.03 * wide.abs().mean()


@pytest.mark.parametrize("case", IDENTITY_AT_INIT)
def test_the_declared_identity_at_init(case):
    text = tokens(2, 9)
    logits = []
    branches = {row.name for row in ParamTable.of(build_model(model_config())[0]).with_role("matrix")}
    for changes in ({}, TECHNIQUES[case]):
        config = model_config(**changes)
        model = LM(config, [config.depth.parse()])
        model.init_weights(0)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():  # open the branches, which start silent; the technique's own parameters stay as they are
            for row in ParamTable.of(model):
                if row.name in branches:
                    row.value.copy_(0.2 * torch.randn(row.shape, generator=generator))
            logits.append(model(text, config.depth.parse()))
    assert torch.equal(*logits)


def test_both_attention_kernels_give_the_same_logits():
    model, schedule = build_model(model_config(**ALL_TOGETHER))
    text = tokens(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(
            model(text, schedule, attend_kind="products"), model(text, schedule), atol=2e-5, rtol=1e-5
        )
