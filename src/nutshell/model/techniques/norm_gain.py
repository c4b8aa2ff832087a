"""Norm gain: a branch's normalised input is weighed channel by channel, at each visit with weights of its own.

What:      h <- g * h, with weights of their own for attention and MLP.
Source:    the gain of Zhang and Sennrich 2019 (arXiv:1910.07467); by visit, `unique norms` of openai/parameter-golf 855
           (shared/spec/recurrence-study-855.md 1.4, T7).
Shapes:    h [B T D]; g [D], for each visit or each block.
Init:      g = 1: the identity.
Cost:      2 D parameters a visit or block; no matrix products.
Sees:      the current token.
Interacts: where norms.attention or norms.mlp is "output", that branch's input is not normalised, only weighed.
"""

from typing import ClassVar

from nutshell.model.rows import BranchGain, filled_rows
from nutshell.model.seams import BlockKind, Per, Place, Side


class NormGainConfig(BlockKind, frozen=True, kw_only=True, tag="norm_gain"):
    """Whether all visits of a block share the weights."""

    side: ClassVar[Side] = "input"
    per: Per = "visit"

    def build(self, place: Place) -> "NormGain":
        shape, rows = (place.dims.model_dim,), place.rows(self.per)
        return NormGain(filled_rows(rows, shape, 1.0, "gain"), filled_rows(rows, shape, 1.0, "gain"))

    def num_params(self, place: Place) -> int:
        return 2 * place.dims.model_dim * place.rows(self.per)


class NormGain(BranchGain):
    """Weigh the channels of a branch's input."""
