"""Predict an artifact's size from the configuration alone, before anything is trained.

Trained rows are taken as normal. For every shape and rule, a sample of normal rows is quantized as the packer would,
and its codes cost their entropy; so every method and grid is priced by what it does, not by a formula. A fitted
precision ends at the budget, unless the model is so small that its finest precision is smaller than that.
"""

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Int

from nutshell.artifact.config import PackConfig
from nutshell.artifact.fit import HIGHEST_RATE_BITS
from nutshell.artifact.pack import is_fitted
from nutshell.model.config import ModelConfig
from nutshell.model.lm import LM
from nutshell.nn.params import ParamRow, ParamTable
from nutshell.quant.config import QuantRule, rule_for
from nutshell.quant.grids import OpenGrid
from nutshell.quant.lqer import SymmetricLqer
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import quantize
from nutshell.quant.statistics import Statistics

# Measured on the demo's artifact: a token of the tokenizer's short form, recipe and frame without sections, the
# manifest's row of a section, the model in front of a section's codes, and a value of gains and scales.
TOKENIZER_BYTES_PER_TOKEN = 2.2
FIXED_BYTES = 900
ROW_BYTES = 9
MODEL_BYTES = 8
FLOAT_BITS = 13.0
_SAMPLE = 1 << 16  # weights of a sample; its entropy is off by less than 0.01 bit
# Less than any open grid has at its finest, where normal rows meet the widest code at 7 bits a weight.
_SURE_BITS = 6.0


def predict_bytes(model: ModelConfig, pack: PackConfig) -> int:
    """Predict the size of the packed artifact, in bytes."""
    with torch.device("meta"):
        table = ParamTable.of(LM(model, [model.depth.parse()]))
    if is_fitted(pack) and _sure_bytes(table, pack) > pack.limit_bytes:
        return pack.limit_bytes
    weights = sum(_weight_bytes(row, rule_for(pack.rules, row.role, row.shape)) for row in table)
    corrections = sum(_correction_bytes(rule, table) for rule in pack.rules)
    total = round(FIXED_BYTES + TOKENIZER_BYTES_PER_TOKEN * model.vocab_size + weights + corrections)
    return min(total, pack.limit_bytes) if is_fitted(pack) else total


def _sure_bytes(table: ParamTable, pack: PackConfig) -> float:
    """Give less than what the weights on open grids have at their finest, without quantizing anything."""
    rules = ((row, rule_for(pack.rules, row.role, row.shape)) for row in table)
    return sum(
        row.value.numel() * (_SURE_BITS + min(rule.grid.extra_bits, 0.0)) / 8
        for row, rule in rules
        if rule is not None and isinstance(rule.grid, OpenGrid)
    )


def _weight_bytes(row: ParamRow, rule: QuantRule | None) -> float:
    if rule is None:
        return ROW_BYTES + FLOAT_BITS / 8 * row.value.numel()
    rows, cols = row.shape
    code_bits, scale_bits, num_scales = _priced(rule, rows, cols)
    sections = 2 * (ROW_BYTES + MODEL_BYTES)
    return sections + (row.value.numel() * code_bits + num_scales * scale_bits) / 8


@cache
def _priced(rule: QuantRule, rows: int, cols: int) -> tuple[float, float, int]:
    """Give the bits of a code and of a scale, and the number of scales, of a normal matrix."""
    sample_rows = min(rows, max(_SAMPLE // cols, 16))
    weight = torch.randn(sample_rows, cols, generator=torch.Generator().manual_seed(0))
    statistics = Statistics(
        torch.eye(cols, dtype=torch.float64), torch.linspace(0.5, 1.5, sample_rows, dtype=torch.float64)
    )
    precision = Precision(HIGHEST_RATE_BITS) if rule.grid.is_open else None
    planes = quantize(weight, rule, statistics=statistics, precision=precision)
    scale = planes.sides["scale"]
    # As many as there are rows, or one.
    num_scales = scale.size if scale.shape == (1,) else scale.size // sample_rows * rows
    spread = np.log2(scale.astype(np.float64)).std()
    # A mantissa has 10 bits to the octave; scales are near normal in their logarithm (Cover and Thomas, 8.3).
    scale_bits = max(0.5 * math.log2(2 * math.pi * math.e) + math.log2(max(spread * 2**10, 0.25)), 0.0)
    # Of the entropy of a trellis' levels, two bits are their remainder by 4, which one path bit says.
    path_bits = -1.0 if "states" in planes.spec else 0.0
    return _entropy(planes.codes) + path_bits, scale_bits, num_scales


def _entropy(codes: Int[np.ndarray, "R C"]) -> float:
    counts = np.unique(codes, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _correction_bytes(rule: QuantRule, table: ParamTable) -> float:
    """Price low-rank corrections, as of the largest matrices."""
    if rule.lqer is None:
        return 0.0
    shapes = [row.shape for row in table if rule_for([rule], row.role, row.shape)]
    largest = sorted(shapes, key=math.prod, reverse=True)
    chosen = largest if rule.lqer.top == "all" else largest[: rule.lqer.top]
    return sum(_factor_bytes(rule, *shape) for shape in chosen)


def _factor_bytes(rule: QuantRule, rows: int, cols: int) -> float:
    lqer = rule.lqer
    assert lqer is not None
    rank = min(lqer.rank, rows, cols)
    if isinstance(lqer, SymmetricLqer):
        bits = rank * (rows + cols) * lqer.bits + 2 * rank * 16
    else:
        bits = rank * (2 * rows + 4 * cols) + rank * math.ceil(cols / lqer.group) * 16
    return 4 * (ROW_BYTES + MODEL_BYTES) + bits / 8
