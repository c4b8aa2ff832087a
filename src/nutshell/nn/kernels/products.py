"""Attention as two matrix products with a softmax between: the definition, and the fastest for short windows on a CPU.

On a CPU in bf16, torch 2.13's fused kernel takes over twice as long as plain products in windows of 128 tokens, once
inductor has fused the softmax, and less from 512 on (`results/attention_cpu.json`).
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nutshell.nn.cache import DocumentIds


def attend_products(
    q: Float[Tensor, "B T H E"],
    k: Float[Tensor, "B S K E"],
    v: Float[Tensor, "B S K E"],
    documents: DocumentIds | None,
) -> Float[Tensor, "B T H E"]:
    """Attend as `attend` says."""
    batch, num_new, num_heads, head_dim = q.shape
    num_all, num_kv = k.shape[1], k.shape[2]
    group = num_heads // num_kv
    # The query heads of a group share their keys: folding them into the rows makes one larger product of each.
    grouped = q.view(batch, num_new, num_kv, group, head_dim).permute(0, 2, 3, 1, 4)  # B K G T E
    rows = grouped.reshape(batch, num_kv, group * num_new, head_dim)
    logits = rows @ k.permute(0, 2, 3, 1)  # B K G*T S
    logits = logits.view(batch, num_kv, group, num_new, num_all).float() / math.sqrt(head_dim)
    seen = visible(num_new, num_all, documents, q.device)[..., None, None, :, :]
    logits = logits.masked_fill(~seen, -math.inf)
    weights = logits.softmax(dim=-1).to(v.dtype).view(batch, num_kv, group * num_new, num_all)
    mixed = (weights @ v.transpose(1, 2)).view(batch, num_kv, group, num_new, head_dim)
    return mixed.permute(0, 3, 1, 2, 4).reshape(batch, num_new, num_heads, head_dim)


def visible(
    num_new: int, num_all: int, documents: DocumentIds | None, device: torch.device
) -> Bool[Tensor, "T S"] | Bool[Tensor, "B T S"]:
    """Say who may see whom; query i stands at position S - T + i."""
    position = torch.arange(num_new, device=device) + (num_all - num_new)
    causal = torch.arange(num_all, device=device)[None, :] <= position[:, None]
    if documents is None:
        return causal
    return causal & (documents.new[:, :, None] == documents.all[:, None, :])
