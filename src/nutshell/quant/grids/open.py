"""Grids whose precision the budget chooses: by a row's deviation, or by what an error costs."""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.quant.grids.grid import GridKind, rms
from nutshell.quant.levels import COLUMN_STEPS_PER_OCTAVE, MAX_BITS, WIDEST_CODE, Levels, largest_code, on_lattice
from nutshell.quant.precision import Precision, step_for_rate
from nutshell.quant.statistics import Statistics


class OpenKind(GridKind, frozen=True, kw_only=True):
    """Base of the grids that the budget moves, `extra_bits` coded bits a weight finer than the others.

    Their scales are put on a lattice (`levels.on_lattice`): which of many steps a row has is of little consequence,
    but has to be stored. Rows with an outlier beyond the widest code get a coarser step; others do not feel it.
    """

    is_open: ClassVar[bool] = True
    extra_bits: float = 0.0

    @abstractmethod
    def free_scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision
    ) -> Float[Tensor, " R"]:
        """Give the scales that the rows would have if no code were too wide, nor any scale dear."""

    def scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision | None
    ) -> Float[Tensor, " R"]:
        assert precision is not None, "an open grid needs a precision"
        free = self.free_scale(weight, statistics=statistics, precision=precision)
        return torch.maximum(free, self.least_scale(weight))

    def least_scale(self, weight: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
        """Give the scale at which a row's largest magnitude is the widest code."""
        return weight.abs().amax(dim=1) / self.largest

    def step(self, precision: Precision) -> float:
        """Give the step of a normal variable of deviation 1."""
        return step_for_rate(precision.rate_bits + self.extra_bits)

    def fit(
        self,
        weight: Float[Tensor, "R C"],
        *,
        statistics: Statistics | None = None,
        precision: Precision | None = None,
        variances: Float[Tensor, " C"] | None = None,
    ) -> Levels:
        wide = weight.double()
        scale = self.scale(wide, statistics=statistics, precision=precision)
        return Levels(on_lattice(scale, self.least_scale(wide)), self.largest)


class RateGrid(OpenKind, frozen=True, tag="rate"):
    """The step at which a normal row would cost the budget's rate after entropy coding."""

    @property
    def largest(self) -> int:
        return largest_code(MAX_BITS)

    def free_scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision
    ) -> Float[Tensor, " R"]:
        return rms(weight) * self.step(precision)


class SlopeGrid(OpenKind, frozen=True, tag="slope"):
    """One global step in the metric of the loss: where an error costs more, the step is finer.

    With the sensitivity s of weight (r, j), row_weights[r] times the variance of input j given the columns after it,
    the step is D / sqrt(s). Equal slope everywhere is what minimises the expected loss under a number of bytes, and at
    these rates equal slope is an equal step (shared/design/compression.md). Without statistics s is 1.

    Stored as a scale a row and a factor a column in quarters of an octave. The steps do not go with the weights, so a
    smaller weight costs fewer bits, as under no other grid.
    """

    uses_statistics: ClassVar[bool] = True

    @property
    def largest(self) -> int:
        return WIDEST_CODE // 2  # a trellis halves the step

    def free_scale(
        self, weight: Float[Tensor, "R C"], *, statistics: Statistics | None, precision: Precision
    ) -> Float[Tensor, " R"]:
        step = self.step(precision) * precision.unit
        if statistics is None:
            return weight.new_full((weight.shape[0],), step)
        return step / sensitivity(statistics.row_weights).to(weight).sqrt()

    def fit(
        self,
        weight: Float[Tensor, "R C"],
        *,
        statistics: Statistics | None = None,
        precision: Precision | None = None,
        variances: Float[Tensor, " C"] | None = None,
    ) -> Levels:
        if statistics is None:
            return super().fit(weight, precision=precision)
        assert precision is not None, "an open grid needs a precision"
        if variances is None:
            variances = statistics.hessian.diagonal()
        octaves = -0.5 * sensitivity(variances).log2()
        # What all columns share goes into the scales: the factors then stay near 1, and fp16 has room for the product.
        shared = octaves.mean()
        columns = torch.round((octaves - shared) * COLUMN_STEPS_PER_OCTAVE).clamp(-127, 127).to(torch.int8)
        wide = weight.double()
        free = self.free_scale(wide, statistics=statistics, precision=precision) * shared.exp2()
        least = self.least_scale(wide / torch.exp2(columns.double() / COLUMN_STEPS_PER_OCTAVE))
        return Levels(on_lattice(torch.maximum(free, least), least), self.largest, columns)


def sensitivity(costs: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Give costs of errors as the steps go by them: none is less than a millionth of the mean.

    A dead input, or an output that the loss does not see, would have an endless step. Where all are zero, all are 1.
    """
    mean = costs.double().mean()
    return costs.double().clamp_min(1e-6 * mean) if mean > 0 else torch.ones_like(costs, dtype=torch.float64)
