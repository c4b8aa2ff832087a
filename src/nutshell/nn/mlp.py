"""Squared MLPs: expand, rectify and square, contract.

What:      y = W2 act(W1 h)^2 with act(u) = max(u, slope * u); relu2 is the one with slope 0.
Source:    relu2: So et al. 2021 (Primer, arXiv:2109.08668). leaky_relu2, slope 0.5: openai/parameter-golf 549.
Shapes:    h, y [B T D]; W1 [F D], W2 [D F].
Init:      W1 drawn, W2 zero: the branch starts silent.
Cost:      2 D F parameters a block, 4 D F FLOPs a token and visit.
Sees:      the current token.
Interacts: c > 0 times h is c^2 times y. Squaring turns the leaky half positive: the unit is not monotone, by design.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.config.struct import Kind
from nutshell.nn.adapters import Project, project
from nutshell.nn.matrices import MatrixConfig
from nutshell.nn.projection import DenseConfig


class MLPKind(Kind, frozen=True, kw_only=True):
    """What all MLPs share: the hidden width, and the kinds of the matrices in and out."""

    mlp_dim: int
    up: MatrixConfig = DenseConfig()
    down: MatrixConfig = DenseConfig()

    def __post_init__(self) -> None:
        if self.mlp_dim < 1:
            raise ValueError(f"mlp_dim must be at least 1, got {self.mlp_dim}")

    def shapes(self, model_dim: int) -> dict[str, tuple[int, int]]:
        """Give the inputs and outputs of the matrices."""
        return {"up": (model_dim, self.mlp_dim), "down": (self.mlp_dim, model_dim)}

    def num_params(self, model_dim: int) -> int:
        return sum(getattr(self, name).num_params(*shape) for name, shape in self.shapes(model_dim).items())

    def flops(self, model_dim: int) -> int:
        """Count the FLOPs of the matrix products of one token."""
        return sum(getattr(self, name).flops(*shape) for name, shape in self.shapes(model_dim).items())


class SquaredReluConfig(MLPKind, frozen=True, kw_only=True, tag="relu2"):
    """`relu(x)^2` between two projections of hidden width `mlp_dim`."""

    def build(self, model_dim: int) -> "SquaredMLP":
        return SquaredMLP(self, model_dim, slope=0.0)


class SquaredLeakyReluConfig(MLPKind, frozen=True, kw_only=True, tag="leaky_relu2"):
    """`leaky_relu(x)^2` between two projections of hidden width `mlp_dim`."""

    slope: float = 0.5

    def build(self, model_dim: int) -> "SquaredMLP":
        return SquaredMLP(self, model_dim, slope=self.slope)


class SquaredMLP(nn.Module):
    """Expand, rectify and square, contract."""

    def __init__(self, config: MLPKind, model_dim: int, *, slope: float) -> None:
        super().__init__()
        shapes = config.shapes(model_dim)
        self.up = config.up.build(*shapes["up"])
        self.down = config.down.build(*shapes["down"], draw="zero")
        self.slope = slope

    def forward(self, h: Float[Tensor, "B T D"], project: Project = project) -> Float[Tensor, "B T D"]:
        hidden = project(self.up, h, "up")
        rectified = F.leaky_relu(hidden, self.slope) if self.slope else torch.relu(hidden)
        return project(self.down, rectified.square(), "down")
