"""x0 mix: every visit begins by mixing the embedded input back in, channel by channel.

What:      u = m0 * x + m1 * x0.
Source:    modded-nanogpt (Jordan et al. 2024), as in openai/parameter-golf 1493 (shared/spec/sp8192-loop36.md 1.2);
           by visit: 686 (shared/spec/recur45-686.md 1.5).
Shapes:    m0, m1 [D], for each block or for each of its visits; or one of each kind, added.
Init:      m0 = 1, m1 = 0: the identity.
Cost:      2 D parameters a block or visit; no matrix products.
Sees:      the current token.
Interacts: skips have joined x before, never x0.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.rows import of_visit, rows_per
from nutshell.model.seams import BlockKind, Place, SharedPer, Stream


class X0MixConfig(BlockKind, frozen=True, kw_only=True, tag="x0_mix"):
    """Whether all visits of a block share the weights, have their own, or deviate from shared ones."""

    per: SharedPer = "block"

    def build(self, place: Place) -> "X0Mix":
        return X0Mix(place, self.per)

    def num_params(self, place: Place) -> int:
        return 2 * place.dims.model_dim * place.rows(self.per)


class X0Mix(nn.Module):
    """Weigh the stream and the embedded input."""

    def __init__(self, place: Place, per: SharedPer) -> None:
        super().__init__()
        shape = (place.dims.model_dim,)
        self.stream_scale = rows_per(place, per, shape, 1.0, "scale")
        self.input_scale = rows_per(place, per, shape, 0.0, "scale")

    def forward(self, x: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        stream_scale, input_scale = of_visit(self.stream_scale, visit), of_visit(self.input_scale, visit)
        return stream_scale.to(x.dtype) * x + input_scale.to(x.dtype) * stream.x0

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"stream": of_visit(self.stream_scale, visit), "input": of_visit(self.input_scale, visit)}
