"""Grids of two and three levels, with the scale of the least mean square error."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.quant.grids.grid import FixedKind


class TernaryGrid(FixedKind, frozen=True, tag="ternary"):
    """Codes -1, 0 and 1.

    Of all ways to call the k largest magnitudes of a cell one value and the others zero, the best is the k of largest
    (sum of the k)^2 / k, at their mean.
    """

    holds_still: ClassVar[bool] = True

    @property
    def largest(self) -> int:
        return 1

    def cell_scale(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        sums = weight.abs().sort(dim=1, descending=True).values.cumsum(dim=1)
        counts = torch.arange(1, weight.shape[1] + 1, dtype=weight.dtype, device=weight.device)
        best = (sums.square() / counts).argmax(dim=1, keepdim=True)
        return (sums / counts).gather(1, best)[:, 0]


class BinaryGrid(FixedKind, frozen=True, tag="binary"):
    """Codes -1 and 1, at the mean magnitude of the cell, which is best for both."""

    holds_still: ClassVar[bool] = True
    signs: ClassVar[bool] = True

    @property
    def largest(self) -> int:
        return 1

    def cell_scale(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        return weight.abs().mean(dim=1)
