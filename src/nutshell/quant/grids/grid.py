"""What all grids share: a grid is fitted to a weight, and gives the levels that its codes may take."""

from abc import abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from nutshell.config.struct import Kind
from nutshell.quant.levels import MAX_BITS, MIN_BITS, Levels, largest_code, spread, stored
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics

Bits = Annotated[int, Meta(ge=MIN_BITS, le=MAX_BITS)]
GroupSize = Annotated[int, Meta(ge=1)]
Per = Literal["tensor", "row"] | GroupSize
Positive = Annotated[float, Meta(gt=0)]

# From weights [N M] to a scale for each of N cells, in the precision of the weights and differentiable.
CellScale = Callable[[Float[Tensor, "N M"]], Float[Tensor, " N"]]


class GridKind(Kind, frozen=True, kw_only=True):
    """Base of all grids.

    `is_open`: its precision is the budget's to choose. `needs_statistics`: it is not defined without a calibration.
    `holds_still`: Q(Q(w)) = Q(w), so weights that were put on the grid stay where they are.
    """

    is_open: ClassVar[bool] = False
    needs_statistics: ClassVar[bool] = False
    uses_statistics: ClassVar[bool] = False
    holds_still: ClassVar[bool] = False
    signs: ClassVar[bool] = False

    @property
    @abstractmethod
    def largest(self) -> int:
        """The largest magnitude of a code."""

    @property
    def code_bits(self) -> int:
        """Bits of a code before entropy coding."""
        return 1 if self.signs else (2 * self.largest).bit_length()

    @abstractmethod
    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, "..."]:
        """Give the scales [1], [R] or [R G], in the precision of `weight`, not rounded; differentiable."""

    def fit(
        self,
        weight: Float[Tensor, "R C"],
        *,
        statistics: Statistics | None = None,
        precision: Precision | None = None,
        variances: Float[Tensor, " C"] | None = None,
    ) -> Levels:
        """Fit to a weight.

        Args:
            weight: fp32, as it was trained.
            statistics: of the matrix, if it was calibrated.
            precision: of the open grids.
            variances: what an error of each column costs once the columns after it make up for it (for `slope`); by
                default the diagonal of the Hessian.
        """
        del variances  # only a grid with steps by column has a use for it
        scale = self.scale(weight.double(), statistics=statistics, precision=precision)
        return Levels(stored(scale), self.largest, signs=self.signs)


class FixedKind(GridKind, frozen=True, kw_only=True):
    """Base of the grids with a fixed number of levels, and one scale a tensor, row, or group of columns in a row."""

    per: Per = "row"

    @abstractmethod
    def cell_scale(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        """Give the scale of each row of what shares one."""

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, "..."]:
        return by_cell(weight, self.per, self.cell_scale)


class ClippedKind(FixedKind, frozen=True, kw_only=True):
    """Base of the grids that say where the largest code is.

    `floor` is the smallest scale, as a multiple of 1 / largest code: 1.0 is the published "1/31" of int6, which makes
    the step of all rows below it constant. Only to reproduce published artifacts.
    """

    bits: Bits
    floor: Positive | None = None

    @property
    def largest(self) -> int:
        return largest_code(self.bits)

    @abstractmethod
    def end(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        """Give the value at which each cell's codes end."""

    def cell_scale(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        return self.floored(self.end(weight) / self.largest)

    def floored(self, scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Raise scales to the floor, if there is one."""
        return scale if self.floor is None else scale.clamp_min(self.floor / self.largest)


def by_cell(weight: Float[Tensor, "R C"], per: Per, of_cells: CellScale) -> Float[Tensor, "..."]:
    """Give what `of_cells` makes of all that shares a scale: [1] of the tensor, [R] of rows, [R G] of groups."""
    if per == "tensor":
        return of_cells(weight.reshape(1, -1))
    if per == "row":
        return of_cells(weight)
    cols = weight.shape[1]
    num_groups = -(-cols // per)
    ends = [-(-group * cols // num_groups) for group in range(num_groups + 1)]
    return torch.stack([of_cells(weight[:, first:last]) for first, last in pairwise(ends)], dim=1)


def spread_over(weight: Float[Tensor, "R C"], scale: Float[Tensor, "..."]) -> Float[Tensor, "R C"]:
    """Give each weight its scale."""
    return spread(scale, *weight.shape)


def rms(weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """Root mean square about zero: what a symmetric grid sees; defined for a single column too."""
    return weight.square().mean(dim=1).sqrt()


def quantile(weight: Float[Tensor, "N M"], share: float) -> Float[Tensor, " N"]:
    """Give each row's quantile, linear between the two weights around it."""
    ordered = weight.sort(dim=1).values
    place = share * (weight.shape[1] - 1)
    below = int(place)
    above = min(below + 1, weight.shape[1] - 1)
    return ordered[:, below] + (place - below) * (ordered[:, above] - ordered[:, below])
