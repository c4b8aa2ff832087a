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
from nutshell.quant.grids.open import OpenKind
from nutshell.quant.levels import MAX_BITS, Levels, largest_code, stored
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics

Share = Annotated[float, Meta(gt=0, lt=1)]


class MixedGrid(GridKind, frozen=True, tag="mixed"):
    """Codes of `bits` (low, middle, high), each row's largest magnitude at their end."""

    needs_statistics: ClassVar[bool] = True
    uses_statistics: ClassVar[bool] = True

    bits: tuple[Bits, Bits, Bits] = (4, 6, 8)
    low_share: Share = 0.1
    high_share: Share = 0.1

    def __post_init__(self) -> None:
        _check_shares(self.low_share, self.high_share)
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
        return row_classes(statistics, self.low_share, self.high_share).choose(low, middle, high)


class MixedRateGrid(OpenKind, frozen=True, tag="mixed_rate"):
    """As `rate`, with `spread_bits` coded bits a weight more or fewer: mixed precision that meets a byte budget."""

    needs_statistics: ClassVar[bool] = True
    uses_statistics: ClassVar[bool] = True

    spread_bits: Annotated[float, Meta(gt=0)] = 2.0
    low_share: Share = 0.1
    high_share: Share = 0.1

    def __post_init__(self) -> None:
        _check_shares(self.low_share, self.high_share)

    @property
    def largest(self) -> int:
        return largest_code(MAX_BITS)

    def free_scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision
    ) -> Float[Tensor, " R"]:
        classes = row_classes(statistics, self.low_share, self.high_share)
        more = classes.choose(-self.spread_bits, 0.0, self.spread_bits)
        return rms(weight) * self.step(precision) * torch.exp2(-more).to(weight)


class RowClasses(NamedTuple):
    """Which rows get fewer bits, and which more."""

    low: Bool[Tensor, " R"]
    high: Bool[Tensor, " R"]

    def choose(self, low: float, middle: float, high: float) -> Float[Tensor, " R"]:
        """Give each row the value of its class."""
        return torch.where(self.low, low, torch.where(self.high, high, middle)).double()


def row_classes(statistics: Statistics | None, low_share: float, high_share: float) -> RowClasses:
    """Split rows by the squared gradient at their outputs: strictly below one quantile, strictly above another."""
    assert statistics is not None, "mixed precision needs a calibration"
    gradients = statistics.row_weights
    low, high = (quantile(gradients[None], share) for share in (low_share, 1 - high_share))
    return RowClasses(gradients < low, gradients > high)


def _check_shares(low: float, high: float) -> None:
    if low + high > 1:
        raise ValueError(f"low_share and high_share make more than 1: {low:g} + {high:g}")
