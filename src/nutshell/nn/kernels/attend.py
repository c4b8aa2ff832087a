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

from nutshell.nn.cache import DocumentIds

AttendKind = Literal["fused", "products"]


def attend(
    q: Float[Tensor, "B T H E"],
    k: Float[Tensor, "B S K E"],
    v: Float[Tensor, "B S K E"],
    kind: AttendKind,
    documents: DocumentIds | None = None,
) -> Float[Tensor, "B T H E"]:
    """Attend from the last T of S positions to all positions up to each one's own; logits scaled by 1/sqrt(E).

    With `documents`, a position sees those of its own document only.
    """
    return (_fused if kind == "fused" else _products)(q, k, v, documents)


def _fused(q: Tensor, k: Tensor, v: Tensor, documents: DocumentIds | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B heads T E
    num_new, num_all = q.shape[2], k.shape[2]
    if num_new == num_all and documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
    mask = _visible(num_new, num_all, documents, q.device).unsqueeze(-3) if num_new > 1 or documents else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def _products(q: Tensor, k: Tensor, v: Tensor, documents: DocumentIds | None) -> Tensor:
    batch, num_new, num_heads, head_dim = q.shape
    num_all, num_kv = k.shape[1], k.shape[2]
    group = num_heads // num_kv
    # The query heads of a group share their keys: folding them into the rows makes one larger product of each.
    grouped = q.view(batch, num_new, num_kv, group, head_dim).permute(0, 2, 3, 1, 4)  # B K G T E
    rows = grouped.reshape(batch, num_kv, group * num_new, head_dim)
    logits = rows @ k.permute(0, 2, 3, 1)  # B K G*T S
    logits = logits.view(batch, num_kv, group, num_new, num_all).float() / math.sqrt(head_dim)
    visible = _visible(num_new, num_all, documents, q.device)[..., None, None, :, :]
    logits = logits.masked_fill(~visible, -math.inf)
    weights = logits.softmax(dim=-1).to(v.dtype).view(batch, num_kv, group * num_new, num_all)
    mixed = (weights @ v.transpose(1, 2)).view(batch, num_kv, group, num_new, head_dim)
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch, num_new, num_heads, head_dim)


def _visible(num_new: int, num_all: int, documents: DocumentIds | None, device: torch.device) -> Tensor:
    """Say who may see whom, [T S] or [B T S] with documents: query i stands at position S - T + i."""
    position = torch.arange(num_new, device=device) + (num_all - num_new)
    causal = torch.arange(num_all, device=device)[None, :] <= position[:, None]
    if documents is None:
        return causal
    return causal & (documents.new[:, :, None] == documents.all[:, None, :])
