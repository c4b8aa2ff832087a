"""Cross-entropy of next tokens, with label smoothing and z-loss: what it means, written plainly.

With `lse` the logarithm of the sum of exponentials of a token's logits z, y its target, e the smoothing, w the weight:

    nats       lse - z[y]                                              what is reported
    objective  lse - (1 - e) z[y] - e mean(z) + w lse^2                what is differentiated

Source: label smoothing, Szegedy et al. 2016 (arXiv:1512.00567), targets (1 - e) on y and e / V on all; z-loss, PaLM
(Chowdhery et al. 2022, arXiv:2204.02311), which holds `lse` near 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Loss(NamedTuple):
    """Means per token, fp32 scalars: what is differentiated, and the plain cross-entropy, detached."""

    objective: Float[Tensor, ""]
    nats: Float[Tensor, ""]


class Smoothing(NamedTuple):
    """What the objective has beside the cross-entropy; nothing by default."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0


def cross_entropy(logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"], smoothing: Smoothing) -> Loss:
    """Give both means over N tokens, from logits in fp32."""
    lse = torch.logsumexp(logits, dim=-1)
    # A masked sum, not an index: the gradient of an index is a table of zeros as large as the logits.
    is_target = torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]
    target_logits = torch.where(is_target, logits, 0.0).sum(dim=-1)
    nats = (lse - target_logits).mean()
    objective = nats
    if smoothing.label_smoothing:
        objective = objective + smoothing.label_smoothing * (target_logits - logits.mean(dim=-1)).mean()
    if smoothing.z_loss:
        objective = objective + smoothing.z_loss * lse.square().mean()
    return Loss(objective, nats.detach())
