"""The initial values used by models, each a function on one tensor; `model/lm.py` says which parameter gets which."""

import torch
from torch import Tensor


def orthogonal(weight: Tensor, generator: torch.Generator) -> None:
    """Fill with a random matrix of orthonormal rows or columns, whichever are fewer (Saxe et al. 2013)."""
    with torch.no_grad():
        torch.nn.init.orthogonal_(weight, generator=generator)


def normal(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with independent normal values."""
    with torch.no_grad():
        weight.normal_(0.0, std, generator=generator)
