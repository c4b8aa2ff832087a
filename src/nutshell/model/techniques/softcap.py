"""Softcap: logits are bounded smoothly.

What:      z <- cap * tanh(z / cap).
Source:    Gemma 2 (Gemma Team 2024, arXiv:2408.00118); all four systems of shared/spec use cap 30.
Shapes:    z [B T V], fp32.
Init:      no parameters. Nearly the identity for |z| well below the cap.
Cost:      one tanh a logit.
Sees:      the current token.
Interacts: bounds how sure the model can be: no probability is below exp(-2 cap) / V.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.model.seams import Dims, Stream


class SoftcapConfig(Kind, frozen=True, tag="softcap"):
    """The bound on a logit's magnitude."""

    cap: float = 30.0

    def __post_init__(self) -> None:
        if self.cap <= 0:
            raise ValueError(f"cap must be positive, got {self.cap}")

    def build(self, dims: Dims) -> "Softcap":
        return Softcap(self.cap)

    def num_params(self, dims: Dims) -> int:
        return 0


class Softcap(nn.Module):
    """Bound the logits."""

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = cap

    def forward(self, z: Float[Tensor, "B T V"], stream: Stream) -> Float[Tensor, "B T V"]:
        return self.cap * torch.tanh(z / self.cap)
