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
from nutshell.errors import UsageError
from nutshell.nn.cache import DocumentIds, KVCache
from nutshell.nn.kernels import bounds, choose, varlen
from nutshell.nn.kernels import race as race_module
from nutshell.nn.kernels.attend import KERNELS, attend
from nutshell.nn.kernels.bounds import document_bounds
from nutshell.nn.kernels.choose import choose_attention
from nutshell.nn.kernels.race import Work, race

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
def told(monkeypatch):
    """What torch is told: which of its fused kernels are on, and which flash attention is activated."""
    state = {"on": {}, "flash": []}

    def switch(backend):
        return lambda on: state["on"].update({backend: on})

    monkeypatch.setattr(choose, "_SWITCHES", {backend: switch(backend) for backend in choose._SWITCHES})
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", state["flash"].append)
    monkeypatch.setattr(
        torch.nn.attention, "current_flash_attention_impl", lambda: state["flash"][-1] if state["flash"] else None
    )
    monkeypatch.setattr(torch.nn.attention, "restore_flash_attention_impl", lambda: state["flash"].append(None))
    return state


@pytest.fixture
def gpu(monkeypatch, told):
    """A GPU of some capability, on which races end as they are told."""

    def pretend(capability=(8, 0), *, flash=True, flash_3=False, times=()):
        left = list(times)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: flash)
        monkeypatch.setattr(choose.importlib.util, "find_spec", lambda name: flash_3 or None)

        def raced(kind, work, device, dtype):
            time = left.pop(0)
            if isinstance(time, Exception):
                raise time
            return time

        monkeypatch.setattr(choose, "race", raced)
        return told

    return pretend


def chosen(device, dtype=torch.bfloat16, wanted="auto", **changes):
    work = Work(rows=2, seq_len=1024, num_heads=4, num_kv_heads=2, head_dim=64)._replace(**changes)
    return choose_attention(wanted, work, device, dtype)


def test_a_cpu_takes_products_for_short_windows_and_races_nothing(told):
    assert chosen(CPU, seq_len=256) == chosen(CPU, seq_len=128, within_documents=True) == ("products", {})
    assert chosen(CPU, seq_len=257) == ("fused", {})
    assert chosen(CPU, seq_len=257).kind == "fused"
    assert chosen(CPU, seq_len=257, wanted="products").name == "products"
    assert all(told["on"].values())


def test_a_kernel_that_does_not_run_here_is_refused(gpu):
    with pytest.raises(UsageError, match="'flash' does not run here; usable: products, fused"):
        chosen(CPU, wanted="flash")
    gpu((8, 9), flash_3=True)
    with pytest.raises(UsageError, match="'flash3' does not run here; usable: flash, cudnn"):
        chosen(GPU, wanted="flash3")


def test_a_gpu_without_flash_attention_leaves_it_to_torch(gpu):
    gpu()
    assert chosen(GPU, torch.float32) == ("fused", {})
    assert chosen(GPU, head_dim=20) == chosen(GPU, head_dim=264) == ("fused", {})
    gpu((7, 5))
    assert chosen(GPU) == ("fused", {})
    assert all(gpu(flash=False)["on"].values())
    assert chosen(GPU) == ("fused", {})


def test_a_gpu_takes_the_fastest_and_tells_torch(gpu):
    told = gpu(times=[3.0, 2.0])
    assert chosen(GPU) == ("cudnn", {"flash": 3.0, "cudnn": 2.0})
    assert told["on"] == {"flash": False, "cudnn": True, "efficient": False, "math": False}
    gpu(times=[3.0, 2.0])
    assert chosen(GPU, within_documents=True) == ("varlen", {"fused": 3.0, "varlen": 2.0})
    assert chosen(GPU, within_documents=True, wanted="varlen").kind == "varlen"
    assert all(told["on"].values())
    assert told["flash"] == []


def test_one_that_fails_or_disagrees_loses(gpu):
    gpu(times=[RuntimeError("no such shape"), 2.0])
    assert chosen(GPU) == ("cudnn", {"flash": None, "cudnn": 2.0})
    gpu(times=[9.0, None])
    assert chosen(GPU) == ("flash", {"flash": 9.0, "cudnn": None})
    told = gpu(times=[None, None])
    assert chosen(GPU) == ("fused", {"flash": None, "cudnn": None})
    assert all(told["on"].values())


def test_flash_attention_3_races_on_hopper_where_it_is_installed(gpu):
    told = gpu((9, 0), flash_3=True, times=[3.0, 2.0, 1.0])
    assert chosen(GPU) == ("flash3", {"flash": 3.0, "cudnn": 2.0, "flash3": 1.0})
    assert told["flash"][-1] == "FA3"
    gpu((9, 0), flash_3=True, times=[3.0, 1.5, 1.8])
    assert chosen(GPU, within_documents=True).name == "varlen"
    assert told["flash"][-1] is None
    gpu((10, 0), flash_3=True, times=[3.0, 2.0])
    assert "flash3" not in chosen(GPU).milliseconds


def test_a_flash_attention_3_that_does_not_load_is_left_alone(gpu, monkeypatch):
    gpu((9, 0), flash_3=True, times=[3.0, 2.0])

    def broken(name):
        raise ImportError("built for another torch")

    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", broken)
    assert chosen(GPU) == ("cudnn", {"flash": 3.0, "cudnn": 2.0, "flash3": None})
    with pytest.raises(UsageError, match="'flash3' does not load: built for another torch"):
        chosen(GPU, wanted="flash3")


@pytest.mark.parametrize("within", [False, True])
def test_a_race_times_kernels_that_agree(within):
    work = Work(rows=2, seq_len=24, num_heads=4, num_kv_heads=2, head_dim=8, within_documents=within)
    for kind in ("products", "fused"):
        for dtype in (torch.float32, torch.bfloat16):
            assert race(kind, work, CPU, dtype) > 0.0


@pytest.mark.parametrize("fault", ["scale", "mask", "gradient"])
def test_a_race_is_lost_by_a_kernel_that_is_wrong(monkeypatch, fault):
    def wrong(q, k, v, documents):
        if fault == "mask":
            return attend(q.flip(1), k.flip(1), v.flip(1), "products").flip(1)  # sees what comes after
        y = attend(q, k, v, "products")
        return 1.1 * y if fault == "scale" else y.detach() + 0.9 * (y - y.detach())

    monkeypatch.setitem(KERNELS, "fused", wrong)
    work = Work(rows=2, seq_len=24, num_heads=4, num_kv_heads=2, head_dim=8)
    assert race("fused", work, CPU, torch.float32) is None


def test_a_race_takes_no_more_tokens_than_say_something():
    sizes = []
    work = Work(rows=1000, seq_len=32, num_heads=2, num_kv_heads=1, head_dim=8)
    with mock.patch.object(race_module, "MAX_TOKENS", 96), mock.patch.object(race_module, "_seconds") as seconds:
        seconds.side_effect = lambda kind, inputs, documents: sizes.append(inputs[0].shape[0]) or 1.0
        assert race("fused", work, CPU, torch.float32) == 1000.0
    assert set(sizes) == {3}


@torch.no_grad()
def test_both_cpu_kernels_give_a_model_within_documents_the_same_logits():
    model, schedule = build_model(within_documents("all together"))
    text = torch.cat([document(5)[1:], document(7, seed=1)])[None]
    torch.testing.assert_close(
        model(text, schedule, attend_kind="products"), model(text, schedule), atol=2e-5, rtol=1e-5
    )


def test_a_torch_that_cannot_replace_flash_attention_has_the_other_kernels(monkeypatch):
    monkeypatch.delattr(torch.nn.attention, "restore_flash_attention_impl")
    choose.activate("products")
    with pytest.raises(ImportError, match="cannot put FlashAttention 3"):
        choose.activate("flash3")
    choose.activate("fused")
