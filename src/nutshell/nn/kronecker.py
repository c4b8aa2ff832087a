"""Kronecker matrix: one small matrix repeated as the elements of another, and never written out.

What:      y = (W1 (x) W2) x, which is Y = W1 X W2^T with x and y folded into matrices row by row.
Source:    `USE_KRONECKER` of openai/parameter-golf 167 (shared/spec/layer-sharing-167.md 1.3), which crashed.
Shapes:    x [*any C] is X [C1 C2], W1 [R1 C1], W2 [R2 C2], y [*any R] is Y [R1 R2]; C1 is the largest divisor of C that
           is at most its root, C2 = C / C1; R1 and R2 likewise.
Init:      orthogonal: all singular values of W1 (x) W2 are 1. uniform: its elements have the dense draw's variance. At
           the end of a branch W1 alone is zero: with W2 zero too no gradient would ever reach either.
Cost:      R1 C1 + R2 C2 parameters; 2 C1 R2 (C2 + R1) or 2 R1 C2 (C1 + R2) FLOPs a token, whichever is less.
Sees:      the current token.
Interacts: Muon orthogonalises each factor's update, not the product's.
"""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.nn.params import MatrixDraw
from nutshell.nn.projection import Projection


class FactorDims(NamedTuple):
    """Sizes of the factors, W1 [R1 C1] outside and W2 [R2 C2] inside, and what a token costs in either order."""

    in_1: int  # C1
    in_2: int  # C2
    out_1: int  # R1
    out_2: int  # R2

    @classmethod
    def of(cls, in_dim: int, out_dim: int) -> "FactorDims":
        in_1, out_1 = _factor(in_dim), _factor(out_dim)
        return cls(in_1, in_dim // in_1, out_1, out_dim // out_1)

    @property
    def flops_inner_first(self) -> int:
        return 2 * self.in_1 * self.out_2 * (self.in_2 + self.out_1)

    @property
    def flops_outer_first(self) -> int:
        return 2 * self.out_1 * self.in_2 * (self.in_1 + self.out_2)


class KroneckerConfig(Kind, frozen=True, tag="kronecker"):
    """No settings: the shape decides the factors."""

    def build(self, in_dim: int, out_dim: int, *, draw: MatrixDraw = "matrix") -> "Kronecker":
        return Kronecker(FactorDims.of(in_dim, out_dim), draw=draw)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        dims = FactorDims.of(in_dim, out_dim)
        return dims.out_1 * dims.in_1 + dims.out_2 * dims.in_2

    def flops(self, in_dim: int, out_dim: int) -> int:
        """Count the FLOPs of one token, in the cheaper order."""
        dims = FactorDims.of(in_dim, out_dim)
        return min(dims.flops_inner_first, dims.flops_outer_first)


class Kronecker(nn.Module):
    """Apply the two factors one after the other, in the cheaper order."""

    def __init__(self, dims: FactorDims, *, draw: MatrixDraw) -> None:
        super().__init__()
        self.outer = Projection(dims.in_1, dims.out_1, draw="zero" if draw == "zero" else "factor")
        self.inner = Projection(dims.in_2, dims.out_2, draw="factor")
        self.fold = (dims.in_1, dims.in_2)
        self.apply_factors = _inner_first if dims.flops_inner_first <= dims.flops_outer_first else _outer_first

    def forward(self, x: Float[Tensor, "*any C"]) -> Float[Tensor, "*any R"]:
        return self.apply_factors(self.outer, self.inner, x.unflatten(-1, self.fold)).flatten(-2)


# Both turn the fold with a copy: of a strided one, torch makes one product or many small ones, which round differently,
# depending on whether the weight requires a gradient.
def _inner_first(outer: Projection, inner: Projection, x: Float[Tensor, "*any C1 C2"]) -> Float[Tensor, "*any R1 R2"]:
    return outer(inner(x).mT.contiguous()).mT


def _outer_first(outer: Projection, inner: Projection, x: Float[Tensor, "*any C1 C2"]) -> Float[Tensor, "*any R1 R2"]:
    return inner(outer(x.mT.contiguous()).mT.contiguous())


def _factor(dim: int) -> int:
    """Give the largest divisor that is at most the square root."""
    return next(divisor for divisor in range(math.isqrt(dim), 0, -1) if dim % divisor == 0)
