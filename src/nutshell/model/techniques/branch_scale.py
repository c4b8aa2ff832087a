"""Branch scale: a branch's output is weighed channel by channel before it joins the stream.

What:      z <- s * z, with weights of their own for attention and MLP.
Source:    `attn_scale`, `mlp_scale` of openai/parameter-golf 1493 (shared/spec/sp8192-loop36.md 1.2); by visit: 686
           and 167 (shared/spec/recur45-686.md 1.5, layer-sharing-167.md 1.2).
Shapes:    z [B T D]; s [D], for each block or for each of its visits; or one of each kind, added.
Init:      s = 1: the identity.
Cost:      D parameters a branch and block or visit; no matrix products.
Sees:      the current token.
Interacts: what is listed after it (a FiLM shift) is not scaled by it.
"""

from typing import ClassVar

from nutshell.model.rows import BranchGain, rows_per
from nutshell.model.seams import BlockKind, Place, SharedPer, Side


class BranchScaleConfig(BlockKind, frozen=True, kw_only=True, tag="branch_scale"):
    """Whether all visits of a block share the weights, have their own, or deviate from shared ones; for each branch."""

    side: ClassVar[Side] = "output"
    attention: SharedPer = "block"
    mlp: SharedPer = "block"

    def build(self, place: Place) -> "BranchScale":
        shape = (place.dims.model_dim,)
        return BranchScale(
            rows_per(place, self.attention, shape, 1.0, "scale"), rows_per(place, self.mlp, shape, 1.0, "scale")
        )

    def num_params(self, place: Place) -> int:
        return place.dims.model_dim * (place.rows(self.attention) + place.rows(self.mlp))


class BranchScale(BranchGain):
    """Weigh the channels of a branch's output."""
