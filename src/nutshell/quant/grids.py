"""Grids of integer codes, symmetric about zero, and the step that a wanted rate asks for."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Entropy of a normal variable quantized with step D: 0.5 log2(2 pi e) - log2(D/s) bits (Cover and Thomas, 8.3).
NORMAL_ENTROPY_BITS = 0.5 * math.log2(2 * math.pi * math.e)


def largest_code(bits: int) -> int:
    """Give the largest magnitude of a symmetric grid: 1 for 2 bits, 127 for 8."""
    return 2 ** (bits - 1) - 1


def step_for_rate(rate_bits: float) -> float:
    """Give the step, in standard deviations, at which a normal row costs `rate_bits` a weight after entropy coding."""
    return 2.0 ** (NORMAL_ENTROPY_BITS - rate_bits)


def round_to_grid(weight: Float[Tensor, "R C"], scale: Float[Tensor, " R"], bits: int) -> Int[Tensor, "R C"]:
    """Round each weight to the nearest multiple of its row's scale, within the grid."""
    top = largest_code(bits)
    return torch.round(weight / scale[:, None]).clamp(-top, top).to(torch.int8)
