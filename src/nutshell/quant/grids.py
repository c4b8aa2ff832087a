"""Grids of integer codes, symmetric about zero: how wide they are, and which step each row of a matrix has.

A grid is what a rule comes to once its precision is known. The exporter rounds to it, and a training that knows the
exporter sees its weights through the same object.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nutshell.quant.config import MAX_BITS, RtnConfig

# Entropy of a normal variable quantized with step D: 0.5 log2(2 pi e) - log2(D/s) bits (Cover and Thomas, 8.3).
NORMAL_ENTROPY_BITS = 0.5 * math.log2(2 * math.pi * math.e)


def largest_code(bits: int) -> int:
    """Give the largest magnitude of a symmetric grid: 1 for 2 bits, 127 for 8."""
    return 2 ** (bits - 1) - 1


def step_for_rate(rate_bits: float) -> float:
    """Give the step, in standard deviations, at which a normal row costs `rate_bits` a weight after entropy coding."""
    return 2.0 ** (NORMAL_ENTROPY_BITS - rate_bits)


@dataclass(frozen=True, slots=True)
class FixedGrid:
    """Codes of `bits`, the row's largest magnitude or `clip_sigmas` of its deviations at their end."""

    bits: int
    clip_sigmas: float | None = None

    def step(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
        """Give each row's step, in the precision of `weight`; it grows with the row."""
        end = weight.abs().amax(dim=1) if self.clip_sigmas is None else self.clip_sigmas * _row_std(weight)
        return end / largest_code(self.bits)


@dataclass(frozen=True, slots=True)
class RateGrid:
    """The step at which a normal row would cost `rate_bits` a weight; codes as wide as the row needs."""

    rate_bits: float
    bits: ClassVar[int] = MAX_BITS

    def step(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
        """Give each row's step, in the precision of `weight`; it grows with the row."""
        # Outliers beyond the widest code would be clipped; a coarser step keeps them, at no cost to other rows.
        coarsest = weight.abs().amax(dim=1) / largest_code(self.bits)
        return torch.maximum(_row_std(weight) * step_for_rate(self.rate_bits), coarsest)


RowGrid = FixedGrid | RateGrid


def grid_of(rule: RtnConfig, rate_bits: float | None) -> RowGrid:
    """Give a rule's grid; `rate_bits` is the precision of the rules that do not fix theirs."""
    if rule.bits is not None:
        return FixedGrid(rule.bits, rule.clip_sigmas)
    assert rate_bits is not None, "a rule without bits needs a rate"
    return RateGrid(rate_bits + rule.extra_bits)


def round_to_grid(weight: Float[Tensor, "R C"], scale: Float[Tensor, " R"], bits: int) -> Int[Tensor, "R C"]:
    """Round each weight to the nearest multiple of its row's scale, within the grid."""
    top = largest_code(bits)
    return torch.round(weight / scale[:, None]).clamp(-top, top).to(torch.int8)


def _row_std(weight: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
    """Root mean square about zero: what a symmetric grid sees; defined for a single column too."""
    return weight.square().mean(dim=1).sqrt()
