"""Dense matrix: every weight its own. All matrix products of a model are made of it.

What:      y = W x, without bias; fp32 master weights, cast to the activations' dtype when used.
Source:    the plain linear map; without biases, as in all four systems of shared/spec.
Shapes:    x [*any C], W [R C], y [*any R].
Init:      as the recipe's `matrix_init` says (nn/init.py); zero at the end of a branch.
Cost:      R C parameters, 2 R C FLOPs a token.
Sees:      the current token.
Interacts: with nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.config.struct import Kind
from nutshell.nn.params import Draw, MatrixDraw, Role, parameter


class DenseConfig(Kind, frozen=True, tag="dense"):
    """A full matrix."""

    def build(self, in_dim: int, out_dim: int, *, draw: MatrixDraw = "matrix") -> "Projection":
        return Projection(in_dim, out_dim, draw=draw)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return in_dim * out_dim

    def flops(self, in_dim: int, out_dim: int) -> int:
        """Count the FLOPs of one token: two a weight."""
        return 2 * in_dim * out_dim


class Projection(nn.Module):
    """A linear map without bias, `y = x W^T`.

    Shapes:
        weight: [R C], rows are outputs; kept in fp32.
    """

    def __init__(self, in_dim: int, out_dim: int, *, role: Role = "matrix", draw: Draw = "matrix") -> None:
        super().__init__()
        self.weight = parameter(torch.empty(out_dim, in_dim), role, draw)

    def forward(self, x: Float[Tensor, "*any C"]) -> Float[Tensor, "*any R"]:
        return F.linear(x, self.weight.to(x.dtype))
