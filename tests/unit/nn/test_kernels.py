"""The attention kernels, short of a GPU's arithmetic: where documents end, what kernels are given, which is chosen."""

import inspect
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn

from models import BOS, build_model, document, model_config, tokens, within_documents
from nutshell.nn.cache import DocumentIds, KVCache
from nutshell.nn.kernels import bounds, choose, varlen
from nutshell.nn.kernels.attend import attend
from nutshell.nn.kernels.bounds import document_bounds
from nutshell.nn.kernels.choose import choose_attend

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@given(st.integers(1, 4), st.integers(1, 9), st.randoms(use_true_random=False))
def test_documents_end_where_the_next_begins_and_where_rows_end(batch, length, random):
    rows = [[random.random() < 0.3 for _ in range(length)] for _ in range(batch)]
    cuts = [row * length + t for row in range(batch) for t in range(length) if t == 0 or rows[row][t]]
    with mock.patch.object(bounds, "MEAN_DOCUMENT_TOKENS", 3):
        found = document_bounds(torch.tensor(rows))
    room = 1 + batch + batch * length // 3
    if len(cuts) + 1 > room:
        assert found is None
    else:
        assert found.tolist() == cuts + [batch * length] * (room - len(cuts))
        assert found.dtype == torch.int32


def test_the_list_of_bounds_is_as_long_for_every_batch():
    bare, full = torch.zeros(2, 1024).bool(), torch.zeros(2, 1024).bool()
    full[:, 100:1000:300] = True
    assert document_bounds(bare).tolist() == [0, 1024] + [2048] * 9
    assert document_bounds(full).tolist() == [0, 100, 400, 700, 1024, 1124, 1424, 1724] + [2048] * 3
    full[:, 1:6] = True
    assert document_bounds(full) is None


def attend_piece_by_piece(*args, **kwargs):
    """What torch's kernel is documented to do, in plain products; its arguments must fit the installed version."""
    given = inspect.signature(varlen_attn).bind(*args, **kwargs)
    given.apply_defaults()
    q, k, v, cuts = (given.arguments[name] for name in ("query", "key", "value", "cu_seq_q"))
    assert torch.equal(cuts, given.arguments["cu_seq_k"])
    assert given.arguments["window_size"] == (-1, 0)
    assert cuts[-1] == len(q)
    assert cuts.diff().max() <= given.arguments["max_q"] == given.arguments["max_k"]
    pieces = [
        attend(q[None, start:stop], k[None, start:stop], v[None, start:stop], "products")[0]
        for start, stop in zip(cuts.tolist(), cuts.tolist()[1:], strict=False)
        if stop > start
    ]
    return torch.cat(pieces)


@pytest.fixture
def kernel_calls(monkeypatch):
    """Stands in for torch's kernel, which needs a GPU; says how often it was called."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return attend_piece_by_piece(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", counted)
    return calls


@torch.no_grad()
def test_the_model_by_the_variable_length_kernel_is_the_model_by_the_mask(kernel_calls, monkeypatch):
    monkeypatch.setattr(bounds, "MEAN_DOCUMENT_TOKENS", 4)
    model, schedule = build_model(within_documents("all together"))
    text = torch.stack([torch.cat([document(5)[1:], document(7, seed=1)]), torch.cat([document(3), document(8)])])
    masked = model(text, schedule)
    assert not kernel_calls
    by_bounds = model(text, schedule, attend_kind="varlen")
    assert len(kernel_calls) == len(schedule.visits)
    torch.testing.assert_close(by_bounds, masked, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("reason", ["no documents wanted", "too many documents", "a cache"])
def test_without_bounds_the_fused_kernel_serves(kernel_calls, reason):
    model, schedule = build_model(model_config() if reason == "no documents wanted" else within_documents("none"))
    text = torch.full((2, 6), BOS) if reason == "too many documents" else tokens(2, 6)
    caches = [KVCache(6), KVCache(6)] if reason == "a cache" else [None, None]
    fused, other = (
        model(text, schedule, attend_kind=kind, cache=cache)
        for kind, cache in zip(("fused", "varlen"), caches, strict=True)
    )
    assert torch.equal(fused, other)
    assert not kernel_calls


def documents_of(q):
    numbers = torch.zeros(q.shape[:2], dtype=torch.int64, device=q.device)
    return DocumentIds(numbers, numbers, torch.zeros(4, dtype=torch.int32, device=q.device))


def heads(num_heads, device):
    return torch.empty(2, 16, num_heads, 8, dtype=torch.bfloat16, device=device, requires_grad=device == CPU)


def test_the_kernels_gradients_have_the_shapes_of_grouped_heads():
    with FakeTensorMode():  # shapes alone, by what torch has registered for its kernel
        q, k, v = heads(4, CPU), heads(2, CPU), heads(2, CPU)
        y = attend(q, k, v, "varlen", documents_of(q))
        assert y.shape == q.shape
        grads = torch.autograd.grad(y.sum(), (q, k, v))
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]


def test_the_kernel_compiles_once_whatever_the_bounds():
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(attend, backend=count, fullgraph=True, dynamic=False)
    with FakeTensorMode():
        q, k, v = heads(4, GPU), heads(2, GPU), heads(2, GPU)
        for _ in range(2):
            assert compiled(q, k, v, "varlen", documents_of(q)).shape == q.shape
    assert len(graphs) == 1


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of some capability, and what is activated on it."""
    activated = []
    monkeypatch.setattr(choose, "activate_flash_attention_impl", activated.append)

    def pretend(capability, *, flash=True, flash_3=True):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: flash)
        monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: flash_3 or None)
        return activated

    return pretend


def chosen(device, dtype=torch.bfloat16, **changes):
    facts = {"seq_len": 1024, "head_dim": 64, "within_documents": True} | changes
    return choose_attend(device, dtype, **facts)


def test_a_cpu_takes_products_for_short_windows():
    assert chosen(CPU, seq_len=256) == chosen(CPU, seq_len=128, within_documents=False) == "products"
    assert chosen(CPU, seq_len=257) == "fused"
    assert chosen(torch.device("mps"), seq_len=128) == "fused"


def test_a_gpu_takes_the_variable_length_kernel_for_documents_where_it_runs(gpu):
    gpu((8, 0), flash_3=False)
    assert chosen(GPU) == chosen(GPU, torch.float16) == chosen(GPU, seq_len=128) == "varlen"
    assert chosen(GPU, within_documents=False) == "fused"
    assert chosen(GPU, torch.float32) == "fused"
    assert chosen(GPU, head_dim=20) == chosen(GPU, head_dim=264) == "fused"
    gpu((7, 5))
    assert chosen(GPU) == "fused"
    gpu((8, 0), flash=False)
    assert chosen(GPU) == "fused"


@pytest.mark.parametrize("within", [True, False])
def test_flash_attention_3_is_taken_on_hopper_where_it_is_installed(gpu, within):
    for capability, installed in (((8, 9), True), ((10, 0), True), ((9, 0), False)):
        activated = gpu(capability, flash_3=installed)
        chosen(GPU, within_documents=within)
        assert activated == []
    activated = gpu((9, 0))
    chosen(GPU, torch.float32)
    assert activated == []
    assert chosen(GPU, within_documents=within) == ("varlen" if within else "fused")
    assert activated == ["FA3"]


def test_a_flash_attention_3_that_does_not_load_is_left_alone(gpu, monkeypatch):
    gpu((9, 0))

    def broken(name):
        raise ImportError("built for another torch")

    monkeypatch.setattr(choose, "activate_flash_attention_impl", broken)
    assert chosen(GPU) == "varlen"


@torch.no_grad()
def test_both_cpu_kernels_give_a_model_within_documents_the_same_logits():
    model, schedule = build_model(within_documents("all together"))
    text = torch.cat([document(5)[1:], document(7, seed=1)])[None]
    torch.testing.assert_close(
        model(text, schedule, attend_kind="products"), model(text, schedule), atol=2e-5, rtol=1e-5
    )
