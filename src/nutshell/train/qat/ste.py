"""Straight-through: the forward sees the weights as the artifact will hold them.

What:      y = f(Q(w)); dL/dw is taken to be dL/dQ(w), also where the grid clips.
Source:    Bengio et al. 2013 (arXiv:1308.3432); `LATE_QAT` of openai/parameter-golf 549, which never acted
           (shared/spec/recur45-686.md 1.14).
Shapes:    w, Q(w) [R C]; Q rounds to nearest on the exporter's grid, its scales from the fp32 master in every forward.
Cost:      some passes over the weights a forward, however often a block runs.
Interacts: an average of weights is not on the grid, and is rounded once more when it is packed.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.quant.by_role import SeenGrid
from nutshell.train.qat.mode import ViewKind


class SteConfig(ViewKind, frozen=True, tag="ste"):
    """No settings of its own."""

    def view(self, grid: SeenGrid) -> "StraightThrough":
        return StraightThrough(grid)


class StraightThrough(NamedTuple):
    """See Q(w), learn as if it were w."""

    grid: SeenGrid

    def __call__(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        with torch.no_grad():
            rounded = self.grid.rounded(weight)
        # Q(w) to the bit: the difference is zero, and carries the gradient.
        return rounded + (weight - weight.detach())
