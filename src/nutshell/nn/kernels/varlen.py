"""Attention within documents on an NVIDIA GPU: torch's variable-length kernel, on all rows laid end to end.

It never looks at the pairs that a mask would hide. Where there are no documents to go by (none wanted, too many for the
list of their bounds, or a cache before the new tokens) the fused kernel serves.
"""

import inspect
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from nutshell.nn.cache import DocumentIds
from nutshell.nn.kernels.fused import attend_fused

# torch 2.11 takes fewer key/value heads than query heads as they come; later versions want to be told.
GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
CAUSAL = (-1, 0)  # all that came before, nothing that comes after


def attend_varlen(
    q: Float[Tensor, "B T H E"],
    k: Float[Tensor, "B S K E"],
    v: Float[Tensor, "B S K E"],
    documents: DocumentIds | None,
) -> Float[Tensor, "B T H E"]:
    """Attend as `attend` says; in bf16 or fp16, with heads of a multiple of 8 channels, up to 256."""
    if documents is None or documents.bounds is None:
        return attend_fused(q, k, v, documents)
    bounds, longest = documents.bounds, q.shape[1]
    flat_q, flat_k, flat_v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # B*T heads E
    y = varlen_attn(flat_q, flat_k, flat_v, bounds, bounds, longest, longest, window_size=CAUSAL, **GROUPED)
    return cast(Tensor, y).view_as(q)
