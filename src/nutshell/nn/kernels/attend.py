"""Causal attention with grouped key/value heads: torch's fused kernel, and two matrix products with a softmax between.

On a CPU in bf16, torch 2.13's fused kernel takes over twice as long as plain products in windows of 128 tokens, once
inductor has fused the softmax, and less from 512 on (`results/attention_cpu.json`), so short training windows use the
products. Both mean the same; a test holds them together.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

AttendKind = Literal["fused", "products"]


def attend(
    q: Float[Tensor, "B T H E"], k: Float[Tensor, "B S K E"], v: Float[Tensor, "B S K E"], kind: AttendKind
) -> Float[Tensor, "B T H E"]:
    """Attend from the last T of S positions to all positions up to each one's own; logits scaled by 1/sqrt(E)."""
    return _fused(q, k, v) if kind == "fused" else _products(q, k, v)


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B heads T E
    num_new, num_all = q.shape[2], k.shape[2]
    if num_new == num_all:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
    mask = _causal_mask(num_new, num_all, q.device) if num_new > 1 else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def _products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, num_new, num_heads, head_dim = q.shape
    num_all, num_kv = k.shape[1], k.shape[2]
    group = num_heads // num_kv
    # The query heads of a group share their keys: folding them into the rows makes one larger product of each.
    grouped = q.view(batch, num_new, num_kv, group, head_dim).permute(0, 2, 3, 1, 4)  # B K G T E
    rows = grouped.reshape(batch, num_kv, group * num_new, head_dim)
    logits = rows @ k.permute(0, 2, 3, 1)  # B K G*T S
    logits = logits.view(batch, num_kv, group, num_new, num_all).float() / math.sqrt(head_dim)
    logits = logits.masked_fill(~_causal_mask(num_new, num_all, q.device), -math.inf)
    weights = logits.softmax(dim=-1).to(v.dtype).view(batch, num_kv, group * num_new, num_all)
    mixed = (weights @ v.transpose(1, 2)).view(batch, num_kv, group, num_new, head_dim)
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch, num_new, num_heads, head_dim)


def _causal_mask(num_new: int, num_all: int, device: torch.device) -> Tensor:
    """Say who may see whom, [T S]: query i stands at position S - T + i."""
    position = torch.arange(num_new, device=device) + (num_all - num_new)
    return torch.arange(num_all, device=device)[None, :] <= position[:, None]
