"""Grids of a fixed number of levels, by where they end."""

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from nutshell.quant.grids.grid import Bits, ClippedKind, GridKind, Positive, quantile
from nutshell.quant.levels import Levels, largest_code, stored
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics

Quantile = Annotated[float, Meta(gt=0, le=1)]


class AbsmaxGrid(ClippedKind, frozen=True, tag="absmax"):
    """The largest magnitude at the end: nothing is clipped, and an outlier coarsens its cell."""

    holds_still: ClassVar[bool] = True

    def end(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        return weight.abs().amax(dim=1)


class PercentileGrid(ClippedKind, frozen=True, tag="percentile"):
    """A quantile of the magnitudes at the end (published: 0.9999984); the few beyond it are clipped."""

    quantile: Quantile

    def end(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        return quantile(weight.abs(), self.quantile)


class PercentileSearchGrid(GridKind, frozen=True, tag="percentile_search"):
    """The quantile that leaves the least mean square error, of a list; of equals the first.

    Chosen once for the matrix, as published (`by = "matrix"`; openai/parameter-golf 686), or for each row.
    """

    bits: Bits
    quantiles: tuple[Quantile, ...] = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    by: Literal["matrix", "row"] = "matrix"
    floor: Positive | None = None

    def __post_init__(self) -> None:
        if len(set(self.quantiles)) < 2 or len(set(self.quantiles)) < len(self.quantiles):
            raise ValueError(f"quantiles must be two or more that differ, got {list(self.quantiles)}")

    @property
    def largest(self) -> int:
        return largest_code(self.bits)

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, " R"]:
        grids = [PercentileGrid(bits=self.bits, quantile=each, floor=self.floor) for each in self.quantiles]
        scales = torch.stack([grid.cell_scale(weight) for grid in grids])
        errors = torch.stack([squared_errors(weight, stored(scale), self.largest) for scale in scales])
        if self.by == "matrix":
            return scales[int(errors.sum(dim=1).argmin())]
        return scales.gather(0, errors.argmin(dim=0)[None])[0]


class SdClipGrid(ClippedKind, frozen=True, tag="sd_clip"):
    """`sigmas` standard deviations at the end: the step relative to the deviation, and with it the coded rate, is set.

    The deviation is the unbiased one about the mean, as published (openai/parameter-golf 1394). A cell that has none
    ends at its largest magnitude.
    """

    sigmas: Positive

    def end(self, weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
        return self.sigmas * deviation(weight)


class HessianSdClipGrid(GridKind, frozen=True, tag="hessian_sd_clip"):
    """As `sd_clip`, with a wider end for rows whose weights meet larger inputs (openai/parameter-golf 1412).

    c_i = sigmas * deviation_i * (1 + strength * (r_i - 1)), where r_i is the row's mean of |W_ij| h_j / mean(h) with h
    the diagonal of the Hessian, normalised to a mean of 1 over rows. A wider end is a coarser step.
    """

    needs_statistics: ClassVar[bool] = True
    uses_statistics: ClassVar[bool] = True

    bits: Bits
    sigmas: Positive
    strength: Annotated[float, Meta(gt=0, lt=1)] = 0.175

    @property
    def largest(self) -> int:
        return largest_code(self.bits)

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, " R"]:
        assert statistics is not None, "hessian_sd_clip needs a calibration"
        inputs = statistics.hessian.diagonal().to(weight)
        importance = weight.abs() @ inputs
        mean = importance.mean()
        ratio = importance / mean if mean > 0 else torch.ones_like(importance)
        return self.sigmas * deviation(weight) * (1 + self.strength * (ratio - 1)) / self.largest


def deviation(weight: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """Give each row's unbiased deviation about its mean; of a row that has none, its largest magnitude."""
    largest = weight.abs().amax(dim=1)
    if weight.shape[1] == 1:
        return largest
    off = weight - weight.mean(dim=1, keepdim=True)
    constant = (off == 0).all(dim=1)
    spared = torch.where(constant[:, None], torch.ones_like(off), off)
    return torch.where(constant, largest, (spared.square().sum(dim=1) / (weight.shape[1] - 1)).sqrt())


def squared_errors(weight: Float[Tensor, "R C"], scale: Float[Tensor, " R"], largest: int) -> Float[Tensor, " R"]:
    """Give each row's squared error of rounding to nearest by the scales as they are stored."""
    levels = Levels(scale, largest)
    steps = levels.steps(*weight.shape)
    return (weight.double() - levels.codes(weight.double(), steps) * steps).square().sum(dim=1)
