"""Depth sinusoid: every visit begins by adding a fixed code of its depth to the stream.

What:      u = x + e_v, e_v[i] = sin(v / base^(i / D)), v the index of the virtual layer; sines only.
Source:    openai/parameter-golf 855 (shared/spec/recurrence-study-855.md 1.4, T8), after the positions of Vaswani et
           al. 2017 (arXiv:1706.03762).
Shapes:    e_v [D].
Init:      no parameters, nothing stored. Identity for v = 0 alone; at D = 512, RMS 0.22 for v = 1, 0.45 for v = 13.
Cost:      D sines a visit; by index, a compiled region for each virtual layer.
Sees:      the current token.
Interacts: as depth_embedding. A schedule with other loops gives later visits other codes.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import BlockKind, Place, Stream


class DepthSinusoidConfig(BlockKind, frozen=True, kw_only=True, tag="depth_sinusoid"):
    """The base of the geometric frequencies."""

    base: float = 10_000.0

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"base must be above 1, got {self.base}")

    def build(self, place: Place) -> "DepthSinusoid":
        return DepthSinusoid(self.base)

    def num_params(self, place: Place) -> int:
        return 0

    def acts_at(self, place: Place, visit: VirtualLayer) -> bool:
        return self.acts_in(place) and visit.index > 0  # the code of index 0 is zero


class DepthSinusoid(nn.Module):
    """Add the code of the virtual layer's index."""

    def __init__(self, base: float) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        dim = x.shape[-1]
        frequencies = self.base ** (-torch.arange(dim, dtype=torch.float32, device=x.device) / dim)
        return x + torch.sin(visit.index * frequencies).to(x.dtype)
