"""Round to nearest: codes are the weights divided by their row's scale, rounded; the baseline of every quantizer."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.errors import ArtifactError
from nutshell.quant.config import MAX_BITS
from nutshell.quant.grids import largest_code, round_to_grid, step_for_rate

METHOD = "rtn"
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


def quantize_fixed(weight: Float[Tensor, "R C"], *, bits: int, clip_sigmas: float | None) -> CodePlanes:
    """Quantize on a grid of `bits`, its end at the row's largest magnitude or at `clip_sigmas` deviations."""
    wide = weight.double()
    end = wide.abs().amax(dim=1) if clip_sigmas is None else clip_sigmas * _row_std(wide)
    return _quantize(wide, end / largest_code(bits), bits)


def quantize_rate(weight: Float[Tensor, "R C"], *, rate_bits: float) -> CodePlanes:
    """Quantize with the step at which a normal row would cost `rate_bits` a weight; codes as wide as the row needs."""
    wide = weight.double()
    # Outliers beyond the widest code would be clipped; a slightly coarser step keeps them, at no cost to other rows.
    coarsest = wide.abs().amax(dim=1) / largest_code(MAX_BITS)
    return _quantize(wide, torch.maximum(_row_std(wide) * step_for_rate(rate_bits), coarsest), MAX_BITS)


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
    return torch.from_numpy(planes.codes).float() * torch.from_numpy(scale).float()[:, None]


def _quantize(weight: Float[Tensor, "R C"], scale: Float[Tensor, " R"], bits: int) -> CodePlanes:
    # The scale is stored in fp16, so the codes are computed from what the decoder will have. A row of zeros gets the
    # smallest scale and codes of zero.
    stored = scale.clamp_min(SMALLEST_SCALE).to(torch.float16)
    codes = round_to_grid(weight, stored.double(), bits)
    return CodePlanes(codes=codes.numpy(), sides={"scale": stored.numpy()}, spec={"method": METHOD})


def _row_std(weight: Float[Tensor, "R C"]) -> Float[Tensor, " R"]:
    """Root mean square about zero: what a symmetric grid sees; defined for a single column too."""
    return weight.square().mean(dim=1).sqrt()
