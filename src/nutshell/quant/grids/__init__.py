"""Grids: how fine the levels of a matrix are, and where they end. The kind table; one line adds one."""

from nutshell.quant.grids.clipped import (
    AbsmaxGrid,
    HessianSdClipGrid,
    PercentileGrid,
    PercentileSearchGrid,
    SdClipGrid,
)
from nutshell.quant.grids.few import BinaryGrid, TernaryGrid
from nutshell.quant.grids.grid import GridKind
from nutshell.quant.grids.mixed import MixedGrid, MixedRateGrid
from nutshell.quant.grids.open import RateGrid, SlopeGrid

OpenGrid = RateGrid | SlopeGrid | MixedRateGrid
FixedGrid = (
    AbsmaxGrid
    | PercentileGrid
    | PercentileSearchGrid
    | SdClipGrid
    | HessianSdClipGrid
    | MixedGrid
    | TernaryGrid
    | BinaryGrid
)
Grid = OpenGrid | FixedGrid

__all__ = [
    "AbsmaxGrid",
    "BinaryGrid",
    "FixedGrid",
    "Grid",
    "GridKind",
    "HessianSdClipGrid",
    "MixedGrid",
    "MixedRateGrid",
    "OpenGrid",
    "PercentileGrid",
    "PercentileSearchGrid",
    "RateGrid",
    "SdClipGrid",
    "SlopeGrid",
    "TernaryGrid",
]
