"""Mixed precision: rows whose outputs the loss feels most get more bits, those it feels least fewer.

Source: "FTLE" of openai/parameter-golf 167 (shared/spec/layer-sharing-167.md 1.6): of each matrix, rows with a gradient
above the 90th percentile in 8 bits, those below the 10th in 4, all others in 6. There, gradients were of validation
text, and the saving was only simulated. Here they are those of the calibration, and codes are as narrow as they say.
"""

from typing import Annotated, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from msgspec import Meta
from torch import Tensor

from nutshell.quant.grids.grid import Bits, GridKind, quantile, rms
from nutshell.quant.levels import MAX_BITS, Levels, largest_code, stored
from nutshell.quant.precision import Precision, step_for_rate
from nutshell.quant.statistics import Statistics

Share = Annotated[float, Meta(gt=0, lt=1)]


class MixedKind(GridKind, frozen=True, kw_only=True):
    """Base: the shares of a matrix' rows that get fewer bits and more."""

    needs_statistics: ClassVar[bool] = True
    uses_statistics: ClassVar[bool] = True

    low_share: Share = 0.1
    high_share: Share = 0.1

    def __post_init__(self) -> None:
        if self.low_share + self.high_share > 1:
            raise ValueError(f"low_share and high_share make more than 1: {self.low_share:g} + {self.high_share:g}")

    def by_class(self, statistics: Statistics | None, *, low: float, middle: float, high: float) -> Float[Tensor, " R"]:
        """Give each row the value of its class."""
        assert statistics is not None, "mixed precision needs a calibration"
        classes = row_classes(statistics.row_weights, self.low_share, self.high_share)
        return torch.where(classes.low, low, torch.where(classes.high, high, middle)).double()


class MixedGrid(MixedKind, frozen=True, tag="mixed"):
    """Codes of `bits` (low, middle, high), each row's largest magnitude at their end."""

    bits: tuple[Bits, Bits, Bits] = (4, 6, 8)

    def __post_init__(self) -> None:
        MixedKind.__post_init__(self)
        if not self.bits[0] < self.bits[1] < self.bits[2]:
            raise ValueError(f"bits must rise, got {list(self.bits)}")

    @property
    def largest(self) -> int:
        return largest_code(self.bits[2])

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, " R"]:
        return weight.abs().amax(dim=1) / self._largest_by_row(statistics)

    def fit(
        self,
        weight: Float[Tensor, "R C"],
        *,
        statistics: Statistics | None = None,
        precision: Precision | None = None,
        variances: Float[Tensor, " C"] | None = None,
    ) -> Levels:
        scale = self.scale(weight.double(), statistics=statistics, precision=precision)
        return Levels(stored(scale), self._largest_by_row(statistics)[:, None])

    def _largest_by_row(self, statistics: Statistics | None) -> Float[Tensor, " R"]:
        low, middle, high = map(largest_code, self.bits)
        return self.by_class(statistics, low=low, middle=middle, high=high)


class MixedRateGrid(MixedKind, frozen=True, tag="mixed_rate"):
    """As `rate`, with `spread_bits` coded bits a weight more or fewer: mixed precision that meets a byte budget."""

    is_open: ClassVar[bool] = True

    spread_bits: Annotated[float, Meta(gt=0)] = 2.0
    extra_bits: float = 0.0

    @property
    def largest(self) -> int:
        return largest_code(MAX_BITS)

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, " R"]:
        assert precision is not None, "an open grid needs a precision"
        more = self.by_class(statistics, low=-self.spread_bits, middle=0.0, high=self.spread_bits).to(weight)
        steps = rms(weight) * step_for_rate(precision.rate_bits + self.extra_bits) * torch.exp2(-more)
        return torch.maximum(steps, weight.abs().amax(dim=1) / self.largest)


class RowClasses(NamedTuple):
    """Which rows get fewer bits, and which more."""

    low: Bool[Tensor, " R"]
    high: Bool[Tensor, " R"]


def row_classes(row_weights: Float[Tensor, " R"], low_share: float, high_share: float) -> RowClasses:
    """Split rows by the squared gradient at their outputs: strictly below one quantile, strictly above another."""
    ends = [quantile(row_weights.double()[None], share) for share in (low_share, 1 - high_share)]
    return RowClasses(row_weights < ends[0], row_weights > ends[1])
