"""Round to nearest: codes are the weights divided by their row's scale, rounded; the baseline of every quantizer."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.errors import ArtifactError
from nutshell.quant.grids import RowGrid, round_to_grid

METHOD = "rtn"
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


def quantize(weight: Float[Tensor, "R C"], grid: RowGrid) -> CodePlanes:
    """Round to the grid; the codes, and one scale a row."""
    scale = stored_scale(weight, grid)
    codes = _codes(weight, scale, grid)
    return CodePlanes(codes=codes.numpy(), sides={"scale": scale.numpy()}, spec={"method": METHOD})


def dequantize(planes: CodePlanes) -> Float[Tensor, "R C"]:
    """Multiply codes by their row's scale, in fp32.

    Raises:
        ArtifactError: the planes are of another method, or scale and codes do not match.
    """
    if planes.spec.get("method") != METHOD:
        raise ArtifactError(f"unknown quantizer '{planes.spec.get('method')}', this version has '{METHOD}'")
    scale = planes.sides.get("scale")
    if scale is None or planes.codes.ndim != 2 or scale.shape != planes.codes.shape[:1]:
        raise ArtifactError("a quantized matrix needs one scale a row")
    return _values(torch.from_numpy(planes.codes), torch.from_numpy(scale))


def round_trip(weight: Float[Tensor, "R C"], grid: RowGrid) -> Float[Tensor, "R C"]:
    """Give the weights as an artifact gives them back, in fp32: quantized and dequantized, where they are."""
    scale = stored_scale(weight, grid)
    return _values(_codes(weight, scale, grid), scale)


def stored_scale(weight: Float[Tensor, "R C"], grid: RowGrid) -> Float[Tensor, " R"]:
    """Give each row's scale as it is stored, in fp16; a row of zeros has the smallest there is."""
    return grid.step(weight.double()).clamp_min(SMALLEST_SCALE).to(torch.float16)


def _codes(weight: Float[Tensor, "R C"], scale: Float[Tensor, " R"], grid: RowGrid) -> Int[Tensor, "R C"]:
    """Give the codes by the scale as it is stored, for that is what the decoder will have."""
    return round_to_grid(weight.double(), scale.double(), grid.bits)


def _values(codes: Int[Tensor, "R C"], scale: Float[Tensor, " R"]) -> Float[Tensor, "R C"]:
    return codes.float() * scale.float()[:, None]
