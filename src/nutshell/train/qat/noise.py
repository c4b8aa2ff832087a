"""Noise: the forward sees the weights off by as much as rounding will move them, in a new direction each time.

What:      y = f(w + s u), u uniform in +-1/2 and s the weight's step; the gradient is that of w, and no estimate.
Source:    "noisy QAT" of openai/parameter-golf 363 (shared/spec/recurrence-study-855.md 7); as a model of rounding,
           Balle et al. 2017 (arXiv:1611.01704). Where rows are wide against their step, E (s u)^2 = s^2 / 12 is the
           error of rounding too.
Shapes:    w, u [R C]; s [R C], as it will be stored, from the fp32 master in every forward.
Cost:      a random number a weight and some passes over the weights a forward.
Interacts: with loops: all visits of a block see the same noise, as they will see the same rounding error. Drawn from
           torch's global generator, so a step that is seeded repeats.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.quant.by_role import SeenGrid
from nutshell.train.qat.mode import ViewKind


class NoiseConfig(ViewKind, frozen=True, tag="noise"):
    """No settings of its own."""

    def view(self, grid: SeenGrid) -> "UniformNoise":
        return UniformNoise(grid)


class UniformNoise(NamedTuple):
    """See w somewhere in its cell."""

    grid: SeenGrid

    def __call__(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        with torch.no_grad():
            noise = self.grid.stored_steps(weight).float() * (torch.rand_like(weight) - 0.5)
        return weight + noise
