"""The two-matrix MLPs: expand, rectify and square, contract.

What:      y = W2 act(W1 h)^2 with act(u) = max(u, slope * u); relu2 is the one with slope 0.
Source:    relu2: So et al. 2021 (Primer, arXiv:2109.08668). leaky_relu2, slope 0.5: openai/parameter-golf 549.
Shapes:    h, y [B T D]; W1 [F D], W2 [D F].
Init:      W1 orthogonal, W2 zero: the branch starts silent.
Cost:      2 D F parameters a block, 4 D F FLOPs a token and visit.
Sees:      the current token.
Interacts: c > 0 times h is c^2 times y. Squaring turns the leaky half positive: the unit is not monotone, by design.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.config.struct import Kind
from nutshell.nn.projection import Projection


class SquaredReluConfig(Kind, frozen=True, tag="relu2"):
    """`relu(x)^2` between two projections of hidden width `mlp_dim`."""

    mlp_dim: int

    def build(self, model_dim: int) -> "SquaredMLP":
        return SquaredMLP(model_dim, self.mlp_dim, slope=0.0)


class SquaredLeakyReluConfig(Kind, frozen=True, tag="leaky_relu2"):
    """`leaky_relu(x)^2` between two projections of hidden width `mlp_dim`."""

    mlp_dim: int
    slope: float = 0.5

    def build(self, model_dim: int) -> "SquaredMLP":
        return SquaredMLP(model_dim, self.mlp_dim, slope=self.slope)


MLPConfig = SquaredReluConfig | SquaredLeakyReluConfig


class SquaredMLP(nn.Module):
    """Expand, rectify and square, contract."""

    def __init__(self, model_dim: int, mlp_dim: int, *, slope: float) -> None:
        super().__init__()
        self.up = Projection(model_dim, mlp_dim)
        self.down = Projection(mlp_dim, model_dim)
        self.slope = slope

    def forward(self, h: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        hidden = self.up(h)
        rectified = F.leaky_relu(hidden, self.slope) if self.slope else torch.relu(hidden)
        return self.down(rectified.square())
