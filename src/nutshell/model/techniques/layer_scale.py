"""Layer scale: a branch's normalised input shrinks with the depth of its block.

What:      h <- h / sqrt(block + 1), block counted from 0.
Source:    openai/parameter-golf 1493 (`LN_SCALE`); shared/spec/sp8192-loop36.md 1.2.
Shapes:    h [B T D].
Init:      no parameters. Identity for block 0 alone.
Cost:      none.
Sees:      the current token.
Interacts: with relu^2 it scales an MLP's output by 1/(block + 1).
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import Dims, Stream


class LayerScaleConfig(Kind, frozen=True, tag="layer_scale"):
    """No settings."""

    def build(self, dims: Dims) -> "LayerScale":
        return LayerScale()

    def num_params(self, dims: Dims) -> int:
        return 0


class LayerScale(nn.Module):
    """Scale by the block's depth."""

    def forward(self, h: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        return h * (visit.block + 1) ** -0.5
