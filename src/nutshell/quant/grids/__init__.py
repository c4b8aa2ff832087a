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
from nutshell.quant.grids.open import RateGrid, SlopeGrid

OpenGrid = RateGrid | SlopeGrid
FixedGrid = (
    AbsmaxGrid | PercentileGrid | PercentileSearchGrid | SdClipGrid | HessianSdClipGrid | TernaryGrid | BinaryGrid
)
Grid = OpenGrid | FixedGrid

__all__ = [
    "AbsmaxGrid",
    "BinaryGrid",
    "FixedGrid",
    "Grid",
    "GridKind",
    "HessianSdClipGrid",
    "OpenGrid",
    "PercentileGrid",
    "PercentileSearchGrid",
    "RateGrid",
    "SdClipGrid",
    "SlopeGrid",
    "TernaryGrid",
]
