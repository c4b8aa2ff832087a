"""Attention by torch's fused kernels, on every kind of machine."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.nn.cache import DocumentIds
from nutshell.nn.kernels.products import visible


def attend_fused(
    q: Float[Tensor, "B T H E"],
    k: Float[Tensor, "B S K E"],
    v: Float[Tensor, "B S K E"],
    documents: DocumentIds | None,
) -> Float[Tensor, "B T H E"]:
    """Attend as `attend` says."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # B heads T E
    num_new, num_all = q.shape[2], k.shape[2]
    if num_new == num_all and documents is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
    mask = visible(num_new, num_all, documents, q.device).unsqueeze(-3) if num_new > 1 or documents else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)
