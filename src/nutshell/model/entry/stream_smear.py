"""Stream smear: every visit begins by taking some of the token before into the stream, channel by channel.

What:      u_t = g * x_t + (1 - g) * x_{t-1}, g = sigmoid(w). Nothing comes before the first token of a window and, with
           mask_bos, of a document.
Source:    the first form of SmearGate in openai/parameter-golf 167, one in each block, where g weighs the current token
           (shared/spec/layer-sharing-167.md 1.3); once and the other way round it is smear_gate.
Shapes:    x [B T D]; w [D], for each block.
Init:      w = 0, half of each: not the identity.
Cost:      D parameters a block; no matrix products. A cache keeps one token of each virtual layer more.
Sees:      the current token and the one before, as the stream holds them: with each visit one token further.
Interacts: before x0_mix it smears what the last visit left, after it x0 too. Under bounded it reaches branches alone.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import BlockKind, Place, Stream
from nutshell.nn.cache import shift
from nutshell.nn.params import filled

NO_TOKEN = -1


class StreamSmearConfig(BlockKind, frozen=True, kw_only=True, tag="stream_smear"):
    """Whether documents are kept apart."""

    mask_bos: bool = True

    def build(self, place: Place) -> "StreamSmear":
        return StreamSmear(self, place)

    def num_params(self, place: Place) -> int:
        return place.dims.model_dim


class StreamSmear(nn.Module):
    """Interpolate between a token's stream and its predecessor's."""

    def __init__(self, config: StreamSmearConfig, place: Place) -> None:
        super().__init__()
        self.first_token = place.dims.bos_id if config.mask_bos else NO_TOKEN
        self.gate = filled((place.dims.model_dim,), 0.0, "gate")

    def forward(self, x: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        # Only a cache tells visits apart: code that is compiled without one is shared by all of them.
        name = "" if stream.cache is None else f"stream_smear.{visit.index}"
        before = shift(x, 0.0, stream.cache, name)
        before = before.masked_fill((stream.tokens == self.first_token).unsqueeze(-1), 0.0)
        keep = self.gate.sigmoid().to(x.dtype)
        return keep * x + (1 - keep) * before

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"keep": self.gate.sigmoid()}
