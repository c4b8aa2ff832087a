"""Low-rank error correction (LQER): what quantization took from a matrix, given back in part as two thin factors.

What:    W ~ Q(W) + A B, where A [R K] B [K C] is the best approximation of rank K of the residual W - Q(W).
Source:  Zhang et al. 2024 (arXiv:2402.02446); the stored forms are those of openai/parameter-golf 1797
         (shared/spec/sp8192-loop36.md 5.2), which corrected the three matrices of largest residual, at rank 4.
Stored:  integer codes of A^T and B, with scales, beside those of the matrix. A residual of rounding is close to white,
         so a low rank holds little of it: published, 0.0002 to 0.0003 bits per byte.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from msgspec import Meta
from torch import Tensor

from nutshell.codec.planes import CodePlanes
from nutshell.config.struct import Kind
from nutshell.errors import ArtifactError
from nutshell.quant.grids.clipped import AbsmaxGrid
from nutshell.quant.grids.grid import Bits
from nutshell.quant.levels import scale_fits, spread, stored
from nutshell.quant.statistics import Statistics

SIDES = ("lqer_left", "lqer_left_scale", "lqer_right", "lqer_right_scale")
# The published two bits of A: what a two's complement holds.
_LOWEST, _HIGHEST = -2, 1
# A correction costs as many passes over its matrix; the published ones have 4.
MAX_RANK = 64
# Scales that are tried for them, as shares of the one at which nothing is clipped.
_CANDIDATES = 64


class LqerKind(Kind, frozen=True, kw_only=True):
    """Base of both stored forms.

    `rank` of the correction; `top`: how many matrices of the rule have one, those of the largest residual; `weighted`:
    the residual is measured by what it costs in the loss, which takes a calibration.
    """

    rank: Annotated[int, Meta(ge=1, le=MAX_RANK)] = 4
    top: Annotated[int, Meta(ge=1)] | Literal["all"] = 3
    weighted: bool = False


class SymmetricLqer(LqerKind, frozen=True, tag="symmetric"):
    """Both factors in integers of `bits`, one scale for each of the `rank` directions."""

    bits: Bits = 4


class AsymmetricLqer(LqerKind, frozen=True, tag="asymmetric"):
    """A in two bits (-2 to 1) with one scale, B in four with one for each `group` columns."""

    group: Annotated[int, Meta(ge=1)] = 64


Lqer = SymmetricLqer | AsymmetricLqer


def residual_norm(weight: Float[Tensor, "R C"], restored: Float[Tensor, "R C"]) -> float:
    """Give the Frobenius norm of what quantization took from a matrix."""
    return (weight.double() - restored.double()).norm().item()


def most_wrong(residuals: Mapping[str, float], top: int | Literal["all"]) -> set[str]:
    """Choose the matrices that are corrected: the `top` of largest residual norm, of equals the first by name."""
    ranked = sorted(residuals, key=lambda name: (-residuals[name], name))
    return set(ranked if top == "all" else ranked[:top])


def correct(
    planes: CodePlanes,
    restored: Float[Tensor, "R C"],
    weight: Float[Tensor, "R C"],
    lqer: Lqer,
    statistics: Statistics | None,
) -> CodePlanes:
    """Add a correction to the planes of a matrix.

    Args:
        planes: without one.
        restored: what they give.
        weight: what they should give.
        lqer: its rank and form.
        statistics: of the matrix, for a weighted correction.
    """
    residual = weight.double() - restored.double()
    rank = min(lqer.rank, *residual.shape)
    left, right = _weighted_factors(residual, rank, statistics) if lqer.weighted else _factors(residual, rank)
    if isinstance(lqer, SymmetricLqer):
        grid = AbsmaxGrid(bits=lqer.bits)
        sides = (*_rounded(left.T, grid), *_rounded(right, grid))
    else:
        left_codes, left_scale = _two_bits(left.T)
        # B is fitted again to the A that is stored: its two bits are coarse, and this takes up most of what they lose.
        coarse = (left_codes.double() * left_scale.double()).T
        rows = _row_factors(statistics) if lqer.weighted else 1.0
        right = torch.linalg.lstsq(rows * coarse, rows * residual, driver="gelsd").solution
        sides = (left_codes, left_scale, *_rounded(right, AbsmaxGrid(bits=4, per=lqer.group)))
    arrays = {name: side.numpy() for name, side in zip(SIDES, sides, strict=True)}
    return replace(planes, sides={**planes.sides, **arrays})


def corrected(weight: Float[Tensor, "R C"], sides: Mapping[str, np.ndarray]) -> Float[Tensor, "R C"]:
    """Add the stored correction to the weights of a matrix, in fp32; without one, give them as they are.

    Raises:
        ArtifactError: parts of it are missing, or do not fit the matrix.
    """
    found = [sides[name] for name in SIDES if name in sides]
    if not found:
        return weight
    left, left_scale, right, right_scale = _checked(found, tuple(weight.shape))
    for row, column in zip(_values(right, right_scale), _values(left, left_scale), strict=True):
        weight = weight + column[:, None] * row  # not a product of matrices: its sums may differ between machines
    return weight


def _checked(found: list[np.ndarray], shape: tuple[int, ...]) -> list[np.ndarray]:
    if len(found) < len(SIDES):
        raise ArtifactError("a low-rank correction has two factors, each with its scales")
    left, left_scale, right, right_scale = found
    rows, cols = shape
    rank = len(left) if left.ndim == 2 else 0
    fits = (
        1 <= rank <= min(MAX_RANK, *shape)
        and (left.shape, right.shape) == ((rank, rows), (rank, cols))
        and left.dtype == right.dtype == np.int8
        and scale_fits(left_scale, left.shape)
        and scale_fits(right_scale, right.shape)
    )
    if not fits:
        raise ArtifactError("a low-rank correction does not fit its matrix")
    return found


def _values(codes: np.ndarray, scale: np.ndarray) -> Float[Tensor, "K N"]:
    integers = torch.from_numpy(codes)
    return integers.float() * spread(torch.from_numpy(scale).float(), *integers.shape)


def _rounded(factor: Float[Tensor, "K N"], grid: AbsmaxGrid) -> tuple[Tensor, Tensor]:
    levels = grid.fit(factor)
    codes = levels.codes(factor.double(), levels.steps(*factor.shape))
    return codes.to(torch.int8), levels.scale


def _two_bits(factor: Float[Tensor, "K N"]) -> tuple[Tensor, Tensor]:
    """Round to -2 .. 1 by the one scale that leaves the least squared error, of those tried."""
    widest = factor.abs().max()
    tried = []
    for candidate in range(1, _CANDIDATES + 1):
        scale = stored((widest * candidate / _CANDIDATES)[None])
        codes = torch.round(factor / scale.double()).clamp(_LOWEST, _HIGHEST)
        tried.append(((factor - codes * scale.double()).square().sum().item(), candidate, codes, scale))
    _, _, codes, scale = min(tried, key=lambda each: each[:2])
    return codes.to(torch.int8), scale


def _factors(matrix: Float[Tensor, "R C"], rank: int) -> tuple[Float[Tensor, "R K"], Float[Tensor, "K C"]]:
    """Give U S and V^T of the largest singular values.

    By the eigenvectors of the smaller square, which for a table of 8192 rows and 512 columns is far less work.
    """
    if matrix.shape[0] < matrix.shape[1]:
        directions = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -rank:].flip(1)
        right = directions.T @ matrix
        lengths = right.norm(dim=1, keepdim=True)
        return directions * lengths.T, right / lengths.clamp_min(torch.finfo(right.dtype).tiny)
    directions = torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -rank:].flip(1)
    return matrix @ directions, directions.T


def _weighted_factors(
    residual: Float[Tensor, "R C"], rank: int, statistics: Statistics | None
) -> tuple[Float[Tensor, "R K"], Float[Tensor, "K C"]]:
    """Give the factors that leave the least expected loss: those of D^1/2 M L, with D the row weights and H = L L^T."""
    rows, lower = _row_factors(statistics), _root(statistics)
    left, right = _factors(rows * residual @ lower, rank)
    return left / rows, torch.linalg.solve_triangular(lower, right, upper=False, left=False)


def _row_factors(statistics: Statistics | None) -> Float[Tensor, "R 1"]:
    assert statistics is not None, "a weighted correction needs a calibration"
    return statistics.row_weights.sqrt()[:, None]


def _root(statistics: Statistics | None) -> Float[Tensor, "C C"]:
    """Give a lower triangular L with L L^T near the Hessian: 1 % of its mean diagonal is added, as in GPTQ."""
    assert statistics is not None, "a weighted correction needs a calibration"
    hessian = statistics.hessian
    damping = 0.01 * hessian.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.linalg.cholesky(hessian.double() + damping * torch.eye(len(hessian), dtype=torch.float64))
