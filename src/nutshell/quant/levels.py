"""Levels: the values that the weights of one matrix may take, as integers times a step.

A grid (`quant/grids`) fits them to a weight; every method of quantization chooses codes on them; decoding needs the
steps alone. They are computed as they are stored, in fp16, for that is what the decoder will have.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.errors import ArtifactError

MIN_BITS, MAX_BITS = 2, 8
# Open grids have their scales of rows, and their factors of columns, in quarters of an octave. Steps that are off by as
# much as rounding to that cost 0.004 bit a weight more; free scales in fp16 cost 0.02 (docs/log.md).
ROW_STEPS_PER_OCTAVE = COLUMN_STEPS_PER_OCTAVE = 4
WIDEST_CODE = 2**15 - 1
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)
LARGEST_SCALE = float(np.finfo(np.float16).max)


def largest_code(bits: int) -> int:
    """Give the largest magnitude of a symmetric grid: 1 for 2 bits, 127 for 8."""
    return 2 ** (bits - 1) - 1


def stored(scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round scales to fp16, as they are stored; where there is nothing to scale, to the smallest there is."""
    return scale.clamp(SMALLEST_SCALE, LARGEST_SCALE).to(torch.float16)


def on_lattice(scale: Float[Tensor, " R"], least: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
    """Round scales of rows to quarters of an octave about their median, and to fp16: few values, and cheap to code.

    All of them move with a matrix that is scaled, so its codes stay what they are. A row of zeros, for which any scale
    will do, has the median.

    Args:
        scale: as they should be; zero for a row of zeros.
        least: what a row's may not be below.
    """
    # Without a branch, for a training compiles this: a matrix of zeros takes a lattice about 1 and drops it at the end.
    empty = scale == 0
    usual = torch.where(empty, torch.nan, scale).nanmedian().nan_to_num(1.0)
    octaves = torch.where(empty, usual, scale).log2()
    middle = octaves.median()
    lowest_place = ((least.log2() - middle) * ROW_STEPS_PER_OCTAVE).ceil()
    places = torch.maximum(((octaves - middle) * ROW_STEPS_PER_OCTAVE).round(), lowest_place)
    # The smallest is rounded to fp16 first and all others are counted from there: the coder finds them again by it.
    first = places.min()
    base = stored((middle + first / ROW_STEPS_PER_OCTAVE).exp2()).double()
    return torch.where(empty.all(), stored(scale), stored(base * ((places - first) / ROW_STEPS_PER_OCTAVE).exp2()))


def spread(scale: Float[Tensor, "..."], rows: int, cols: int) -> Float[Tensor, "R C"]:
    """Give each weight its scale: of the tensor [1], of its row [R], or of its group in the row [R G].

    The groups of a row are as equal as they can be: column j is in group floor(j G / C).
    """
    if scale.ndim == 1:
        return scale[:, None].expand(rows, cols)
    group = torch.arange(cols, device=scale.device) * scale.shape[1] // cols
    return scale[:, group]


@dataclass(frozen=True, slots=True)
class Levels:
    """Steps and codes of one matrix [R C].

    Attributes:
        scale: [1], [R] or [R G], fp16.
        largest: the largest magnitude of a code, of all rows or of each.
        columns: each column's factor, in quarters of an octave; None for 1.
        signs: codes are -1 and 1 only; without, all integers up to the largest.
    """

    scale: Float[Tensor, "..."]
    largest: int | Float[Tensor, "R 1"]
    columns: Int8[Tensor, " C"] | None = None
    signs: bool = False

    def steps(self, rows: int, cols: int) -> Float[Tensor, "R C"]:
        """Give each weight's step, in float64."""
        steps = spread(self.scale.double(), rows, cols)
        return steps if self.columns is None else steps * _column_factors(self.columns).double()

    def codes(self, weight: Float[Tensor, "R N"], steps: Float[Tensor, "R N"]) -> Int[Tensor, "R N"]:
        """Give the codes nearest to some columns of weights, by their steps; both in float64."""
        if self.signs:
            return torch.where(weight < 0, -1, 1).to(torch.int8)
        largest = torch.as_tensor(self.largest, dtype=weight.dtype, device=weight.device)
        return torch.round(weight / steps).clamp(-largest, largest).to(torch.int16)

    def planes(self, codes: Int[Tensor, "R C"], spec: dict[str, str | int | float]) -> CodePlanes:
        """Give what is stored: codes in as few bytes as hold them, and the steps."""
        sides = {"scale": self.scale.numpy()}
        if self.columns is not None:
            sides["columns"] = self.columns.numpy()
        narrow = codes.numel() == 0 or int(codes.abs().max()) <= np.iinfo(np.int8).max
        return CodePlanes(codes.to(torch.int8 if narrow else torch.int16).numpy(), sides, spec)


def values(codes: Int[Tensor, "R C"], levels: Levels) -> Float[Tensor, "R C"]:
    """Give the weights of codes, in fp32: what every decoder computes, in this order."""
    rows, cols = codes.shape
    weight = codes.float() * spread(levels.scale.float(), rows, cols)
    return weight if levels.columns is None else weight * _column_factors(levels.columns)


def values_of_planes(planes: CodePlanes) -> Float[Tensor, "R C"]:
    """Give the weights of stored planes, in fp32.

    Raises:
        ArtifactError: scale, columns and codes do not match.
    """
    scale, columns = planes.sides.get("scale"), planes.sides.get("columns")
    if scale is None or planes.codes.ndim != 2 or not scale_fits(scale, planes.codes.shape):
        raise ArtifactError("a quantized matrix needs one scale, one a row, or some a row")
    if columns is not None and (columns.shape != planes.codes.shape[1:] or columns.dtype != np.int8):
        raise ArtifactError("the column factors of a quantized matrix are one a column, of 8 bits")
    return values(
        torch.from_numpy(planes.codes),
        Levels(torch.from_numpy(scale), WIDEST_CODE, None if columns is None else torch.from_numpy(columns)),
    )


def scale_fits(scale: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Say whether stored scales can be those of a matrix: fp16, one, one a row, or some for groups of each row."""
    rows, cols = shape
    if scale.dtype != np.float16:
        return False
    if scale.ndim == 2:
        return scale.shape[0] == rows and 1 <= scale.shape[1] <= max(cols, 1)
    return scale.shape in ((1,), (rows,))


def _column_factors(columns: Int8[Tensor, " C"]) -> Float[Tensor, " C"]:
    return torch.exp2(columns.float() / COLUMN_STEPS_PER_OCTAVE)
