"""Attention against plain loops in float64 that share no code with it."""

import math

import pytest
import torch

from models import build_model, model_config
from nutshell.model.attention import Attention
from nutshell.model.seams import Stream
from nutshell.nn.cache import DocumentIds, KVCache
from nutshell.nn.kernels.attend import attend
from nutshell.nn.rotary import Rotary


def naive_attend(q, k, v, documents=None):
    """Loops over queries, heads and keys; `documents` numbers the document of each of the S positions, [B S]."""
    batch, num_new, num_heads, head_dim = q.shape
    num_all, num_kv = k.shape[1:3]
    out = torch.zeros(q.shape, dtype=torch.float64)
    for b in range(batch):
        for t in range(num_new):
            for h in range(num_heads):
                kv = h // (num_heads // num_kv)
                seen = num_all - num_new + t + 1
                own = [s for s in range(seen) if documents is None or documents[b][s] == documents[b][seen - 1]]
                logits = [sum(q[b, t, h, e] * k[b, s, kv, e] for e in range(head_dim)) for s in own]
                weights = [math.exp(logit / math.sqrt(head_dim)) for logit in logits]
                for s, weight in zip(own, weights, strict=True):
                    out[b, t, h] += weight / sum(weights) * v[b, s, kv].double()
    return out


@pytest.mark.parametrize("kind", ["fused", "products"])
@pytest.mark.parametrize(("num_new", "num_all"), [(5, 5), (1, 6), (3, 7)])
def test_attend_is_grouped_causal_attention(kind, num_new, num_all):
    generator = torch.Generator().manual_seed(num_all)
    q = torch.randn(2, num_new, 4, 6, generator=generator)
    k, v = (torch.randn(2, num_all, 2, 6, generator=generator) for _ in range(2))
    torch.testing.assert_close(attend(q, k, v, kind), naive_attend(q, k, v).float(), atol=1e-6, rtol=1e-5)


# Three documents, one of a single token; the second row begins with a BOS, the first in mid-document.
NUMBERS = [[0, 0, 1, 2, 2, 2, 3], [1, 1, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize("kind", ["fused", "products"])
@pytest.mark.parametrize("num_new", [7, 3, 1])
def test_attend_within_documents(kind, num_new):
    generator = torch.Generator().manual_seed(num_new)
    q = torch.randn(2, num_new, 4, 6, generator=generator)
    k, v = (torch.randn(2, 7, 2, 6, generator=generator) for _ in range(2))
    numbers = torch.tensor(NUMBERS)
    documents = DocumentIds(numbers[:, -num_new:], numbers)
    expected = naive_attend(q, k, v, NUMBERS).float()
    torch.testing.assert_close(attend(q, k, v, kind, documents), expected, atol=1e-6, rtol=1e-5)


def test_documents_are_numbered_on_from_what_the_cache_has_seen():
    starts = torch.tensor([[0, 0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 1, 0, 0]]).bool()
    cache = KVCache(capacity=7)
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        documents = cache.extend_documents(starts[:, start:stop])
        assert documents.all.tolist() == [row[:stop] for row in NUMBERS]
        assert documents.new.tolist() == [row[start:stop] for row in NUMBERS]
    cache.keep(torch.tensor([1]))
    assert cache.extend_documents(torch.tensor([[True]])).all.tolist() == [[*NUMBERS[1], 3]]


def stream_of(tokens, rotary):
    return Stream(
        tokens=tokens, previous=tokens, x0=torch.empty(0), rotary=rotary, dtype=torch.float32, attend_kind="fused"
    )


def naive_rotate(x, position, dims, base):
    turned = x.clone()
    for i in range(dims // 2):
        angle = position * base ** (-2 * i / dims)
        a, b = x[i].item(), x[i + dims // 2].item()
        turned[i] = a * math.cos(angle) + b * math.sin(angle)
        turned[i + dims // 2] = -a * math.sin(angle) + b * math.cos(angle)
    return turned


def naive_rms(x):
    return x / math.sqrt(sum(float(value) ** 2 for value in x) / len(x) + 1.1920929e-07)


@torch.no_grad()
def test_the_whole_attention_branch():
    config = model_config(heads=[{"kind": "xsa"}])
    place = config.places([config.depth.parse()])[0]
    module = Attention(config.attention, config.values, config.heads, place)
    generator = torch.Generator().manual_seed(3)
    for value in module.parameters():
        value.copy_(torch.randn(value.shape, generator=generator))
    h = torch.randn(1, 5, 24, generator=generator)
    rotary = Rotary.at(0, 5, dims=4, base=10_000.0, device=h.device)
    stream = stream_of(torch.zeros(1, 5, dtype=torch.int64), rotary)
    visit = config.depth.parse().visits[0]

    wide = h[0].double()
    q = (wide @ module.q.weight.double().T).reshape(5, 4, 8)
    k = (wide @ module.k.weight.double().T).reshape(5, 2, 8)
    v = (wide @ module.v.weight.double().T).reshape(5, 2, 8)
    for t in range(5):
        for head in range(4):
            q[t, head] = naive_rotate(naive_rms(q[t, head]), t, 4, 10_000.0) * module.q_gain[0][head].double()
        for head in range(2):
            k[t, head] = naive_rotate(naive_rms(k[t, head]), t, 4, 10_000.0)
    y = naive_attend(q[None], k[None], v[None])[0]
    for t in range(5):
        for head in range(4):
            own = v[t, head // 2] / v[t, head // 2].norm()
            y[t, head] -= (y[t, head] @ own) * own
    expected = y.reshape(5, 32) @ module.out.weight.double().T
    torch.testing.assert_close(module(h, visit, stream)[0][0], expected.float(), atol=2e-4, rtol=1e-4)


def test_rotary_at_an_offset_continues_the_table():
    whole = Rotary.at(0, 9, dims=8, base=10_000.0, device=torch.device("cpu"))
    tail = Rotary.at(6, 3, dims=8, base=10_000.0, device=torch.device("cpu"))
    torch.testing.assert_close(tail.cos, whole.cos[6:])
    torch.testing.assert_close(tail.sin, whole.sin[6:])


def test_the_model_depends_on_relative_positions_only():
    """Rotary positions: shifting a whole window changes nothing."""
    config = model_config()
    module, _ = build_model(config)
    attention = module.blocks[0].attentions[0]
    h = torch.randn(1, 6, 24, generator=torch.Generator().manual_seed(0))
    visit = config.depth.parse().visits[0]
    outputs = []
    for start in (0, 17):
        rotary = Rotary.at(start, 6, dims=4, base=10_000.0, device=h.device)
        stream = stream_of(torch.zeros(1, 6, dtype=torch.int64), rotary)
        with torch.no_grad():
            outputs.append(attention(h, visit, stream)[0])
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
