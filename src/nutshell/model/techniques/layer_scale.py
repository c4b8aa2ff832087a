"""Layer scale: a branch's normalised input shrinks with depth.

What:      h <- h / sqrt(l + 1), l the number of the block, or the index of the virtual layer; counted from 0.
Source:    `LN_SCALE`: by block in openai/parameter-golf 1493 (shared/spec/sp8192-loop36.md 1.2), by virtual layer in
           686 (shared/spec/recur45-686.md 1.3).
Shapes:    h [B T D].
Init:      no parameters. Identity for l = 0 alone.
Cost:      none; by virtual layer, a compiled region for each.
Sees:      the current token.
Interacts: with relu^2 it scales an MLP's output by 1/(l + 1). By virtual layer, a schedule with other loops changes it.
"""

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import BlockKind, BranchName, Place, Side, Stream

Depth = Literal["block", "index"]


class LayerScaleConfig(BlockKind, frozen=True, kw_only=True, tag="layer_scale"):
    """What counts as depth: the block's number, or the virtual layer's index."""

    side: ClassVar[Side] = "input"
    by: Depth = "block"

    def build(self, place: Place) -> "LayerScale":
        return LayerScale(self.by)

    def num_params(self, place: Place) -> int:
        return 0

    def acts_at(self, place: Place, visit: VirtualLayer) -> bool:
        return self.acts_in(place) and factor(visit, self.by) != 1.0

    def value_at(self, visit: VirtualLayer) -> float:
        return factor(visit, self.by)


def factor(visit: VirtualLayer, by: Depth) -> float:
    """Give the factor of a virtual layer."""
    return ((visit.block if by == "block" else visit.index) + 1) ** -0.5


class LayerScale(nn.Module):
    """Scale by depth."""

    def __init__(self, by: Depth) -> None:
        super().__init__()
        self.by: Depth = by

    def forward(
        self, h: Float[Tensor, "B T D"], branch: BranchName, visit: VirtualLayer, stream: Stream
    ) -> Float[Tensor, "B T D"]:
        return h * factor(visit, self.by)
