"""The norm of the whole gradient, when every rank holds a part of it, and bounding it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nutshell.optim.sharded import sum_whole
from nutshell.ranks import Ranks

# As in torch's clip_grad_norm_: a gradient at the bound is not quite left alone.
CLIP_EPS = 1e-6


def global_norm(own: Sequence[Tensor], common: Sequence[Tensor], ranks: Ranks) -> float:
    """Give the L2 norm of a gradient of which each rank holds parts of its `own`, and all the `common` ones."""
    squares = sum_whole(_squares(own, ranks), ranks).wait() + _squares(common, ranks)
    return squares.sqrt().item()


def clip(grads: Sequence[Tensor], norm: float, bound: float | None) -> None:
    """Scale gradients in place so that the whole, of length `norm`, is no longer than `bound`."""
    if bound is None or norm <= bound:
        return
    factor = bound / (norm + CLIP_EPS)
    for grad in grads:
        grad.mul_(factor)


def _squares(tensors: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """Sum the squares of all elements, in fp64."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64, device=ranks.device)
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).double().square().sum()
