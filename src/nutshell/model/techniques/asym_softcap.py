"""Asymmetric softcap: logits above and below zero are bent towards caps of their own.

What:      z <- c tanh(z / c), c = c_above where z > 0, c_below elsewhere.
Source:    `AsymLogit` of openai/parameter-golf 1923 (shared/spec/sp8192-loop36.md 5.2, 5.3), after the softcap of
           Gemma 2 (Gemma Team 2024, arXiv:2408.00118).
Shapes:    z [B T V], fp32; c_above, c_below scalars.
Init:      both caps as stated. Nearly the identity for |z| well below them.
Cost:      one tanh a logit; 2 parameters if learned.
Sees:      the current token.
Interacts: z has slope 1 at zero from both sides, whatever the caps. Published, no gradient ever reached them: they
           stayed at 30, where this is softcap.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.model.seams import Dims, Stream
from nutshell.nn.params import filled


class AsymSoftcapConfig(Kind, frozen=True, kw_only=True, tag="asym_softcap"):
    """The first bounds on logits above and below zero, and whether they are learned."""

    above: float = 30.0
    below: float = 30.0
    learned: bool = True

    def __post_init__(self) -> None:
        if self.above <= 0 or self.below <= 0:
            raise ValueError(f"above {self.above} and below {self.below} must be positive")
        if not self.learned and self.above == self.below:
            raise ValueError(f"asym_softcap with equal caps {self.above} that are not learned is softcap; name that")

    def build(self, dims: Dims) -> "AsymSoftcap":
        return AsymSoftcap(self)

    def num_params(self, dims: Dims) -> int:
        return 2 * self.learned


class AsymSoftcap(nn.Module):
    """Bound the logits by sign."""

    def __init__(self, config: AsymSoftcapConfig) -> None:
        super().__init__()
        self.above = filled((1,), config.above, "gain") if config.learned else config.above
        self.below = filled((1,), config.below, "gain") if config.learned else config.below

    def forward(self, z: Float[Tensor, "B T V"], stream: Stream) -> Float[Tensor, "B T V"]:
        caps = torch.where(z > 0, self.above, self.below)
        return caps * torch.tanh(z / caps)
