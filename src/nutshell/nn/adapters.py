"""Low-rank corrections of matrix products, each row of a batch its own.

What:      y = W x + s B A x, with A and B of the row and of the place where the product stands.
Source:    LoRA, Hu et al. 2021 (arXiv:2106.09685); by row and virtual layer as in openai/parameter-golf 1530.
Shapes:    x [B T C], A [B r C], B [B R r], y [B T R]; s = alpha / r.
Init:      B zero: y is the plain product, to the bit.
Cost:      r (C + R) parameters a row and place, 2 r (C + R) FLOPs a token.
Sees:      the current token.
Interacts: with any kind of matrix, since it adds to the product; a shared block has its own for each of its visits.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

Place = tuple[int, str]
"""The index of a virtual layer, and the name of a matrix there."""

HEAD: Place = (-1, "head")
"""The language model's head, which belongs to no virtual layer."""

Project = Callable[[nn.Module, Tensor, str], Tensor]
"""Applies a matrix to an input [B T C], given its name in its place."""


class Factors(NamedTuple):
    """The two factors of every row at one place."""

    a: Float[Tensor, "B r C"]
    b: Float[Tensor, "B R r"]


class Adapters(NamedTuple):
    """The corrections of a batch; a place without factors has none."""

    factors: Mapping[Place, Factors]
    scale: float

    def correct(self, y: Float[Tensor, "B T R"], x: Float[Tensor, "B T C"], place: Place) -> Float[Tensor, "B T R"]:
        """Add what the place's factors make of the input."""
        found = self.factors.get(place)
        if found is None:
            return y
        return torch.baddbmm(y, torch.bmm(x, found.a.mT), found.b.mT, alpha=self.scale)


def project(matrix: nn.Module, x: Float[Tensor, "B T C"], name: str) -> Float[Tensor, "B T R"]:
    """Apply a matrix as it is, whatever its name."""
    return matrix(x)
