"""Predict an artifact's size from the configuration alone, before anything is trained.

Trained rows are taken as normal, so a weight costs the entropy of a normal variable at the step in use. A fitted
precision ends just under the budget, unless the model is so small that its finest precision is smaller than that.
"""

import math

import torch

from nutshell.artifact.config import PackConfig
from nutshell.artifact.fit import HIGHEST_RATE_BITS
from nutshell.artifact.pack import is_fitted
from nutshell.codec.limits import gaussian_code_bits
from nutshell.model.config import ModelConfig
from nutshell.model.lm import LM
from nutshell.nn.params import ParamRow, ParamTable
from nutshell.quant.config import QuantRule, rule_for
from nutshell.quant.grids import HessianSdClipGrid, RateGrid, SdClipGrid, SlopeGrid
from nutshell.quant.levels import MAX_BITS, largest_code
from nutshell.quant.precision import step_for_rate

# Measured on the demo's artifact: a token of SentencePiece's model file after compression, recipe and frame, and the
# manifest's row of a section.
TOKENIZER_BYTES_PER_TOKEN = 4.8
FIXED_BYTES = 1_500
SECTION_BYTES = 16


def predict_bytes(model: ModelConfig, pack: PackConfig) -> int:
    """Predict the size of the packed artifact, in bytes."""
    with torch.device("meta"):
        table = ParamTable.of(LM(model, [model.depth.parse()]))
    weights = sum(_weight_bytes(row, rule_for(pack.rules, row.role, row.shape)) for row in table)
    total = round(FIXED_BYTES + TOKENIZER_BYTES_PER_TOKEN * model.vocab_size + weights)
    return min(total, pack.budget_bytes) if is_fitted(pack) else total


def _weight_bytes(row: ParamRow, rule: QuantRule | None) -> float:
    if rule is None:
        return SECTION_BYTES + 2 * row.value.numel()
    rows, cols = row.shape
    return 2 * SECTION_BYTES + 2 * rows + row.value.numel() * _bits_per_weight(rule, cols) / 8


def _bits_per_weight(rule: QuantRule, cols: int) -> float:
    # The largest of `cols` normal values lies near sqrt(2 ln cols) deviations.
    largest = math.sqrt(2 * math.log(max(cols, 2)))
    grid = rule.grid
    if isinstance(grid, RateGrid | SlopeGrid):
        finest = step_for_rate(HIGHEST_RATE_BITS + grid.extra_bits)
        return gaussian_code_bits(max(finest, largest / largest_code(MAX_BITS)))
    end = grid.sigmas if isinstance(grid, SdClipGrid | HessianSdClipGrid) else largest
    return gaussian_code_bits(end / grid.largest)
