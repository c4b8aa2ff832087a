"""Smear gate: each embedded token takes some of the one before it.

What:      channel: x_t <- (1 - g) * x_t + g * x_{t-1}, g = sigmoid(w), a weight for each channel.
           token: x_t <- x_t + l sigmoid(w . x_t[:width]) x_{t-1}, one weight for each token.
           Nothing comes before the first token of a window and, with mask_bos, of a document.
Source:    channel: openai/parameter-golf 135; 686, 167 (shared/spec/recur45-686.md 1.2, layer-sharing-167.md 1.3).
           token: modded-nanogpt (Jordan et al. 2024), pull request 130; 1667 (shared/spec/sp8192-loop36.md 5.2).
Shapes:    x [B T D]; channel: w [D]. token: w [width], l scalar.
Init:      channel: w = 0, half of each: not the identity. token: l = 0, w = 0: the identity.
Cost:      channel: D parameters. token: width + 1 parameters, 2 width FLOPs a token, once.
Sees:      the current token and, through it, the one before.
Interacts: before embed_norm it smears raw embeddings (token in 1667), after it normalised ones (channel in 686).
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.seams import Dims, InputKind, Stream
from nutshell.nn.cache import shift
from nutshell.nn.params import filled
from nutshell.nn.projection import Projection

WIDTH = 12
NO_TOKEN = -1


class SmearGateConfig(InputKind, frozen=True, kw_only=True, tag="smear_gate"):
    """One weight for each channel or for each token, and whether documents are kept apart.

    `width` is how many channels of a token its own weight is computed from.
    """

    form: Literal["channel", "token"] = "channel"
    width: int = WIDTH
    mask_bos: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if self.form == "channel" and self.width != WIDTH:
            raise ValueError(f"width {self.width} has no effect: form is 'channel'")

    def check(self, dims: Dims) -> None:
        if self.form == "token" and self.width > dims.model_dim:
            raise ValueError(f"smear_gate.width {self.width} is more than model_dim {dims.model_dim}")

    def build(self, dims: Dims) -> "ChannelSmear | TokenSmear":
        return (ChannelSmear if self.form == "channel" else TokenSmear)(self, dims)

    def num_params(self, dims: Dims) -> int:
        return dims.model_dim if self.form == "channel" else self.width + 1

    def flops(self, dims: Dims) -> int:
        return 0 if self.form == "channel" else 2 * self.width


class ChannelSmear(nn.Module):
    """Interpolate between a token and its predecessor, channel by channel."""

    def __init__(self, config: SmearGateConfig, dims: Dims) -> None:
        super().__init__()
        self.first_token = dims.bos_id if config.mask_bos else NO_TOKEN
        self.gate = filled((dims.model_dim,), 0.0, "gate")

    def forward(self, x: Float[Tensor, "B T D"], stream: Stream) -> Float[Tensor, "B T D"]:
        taken = self.gate.sigmoid().to(x.dtype)
        return (1 - taken) * x + taken * predecessors(x, stream, self.first_token)


class TokenSmear(nn.Module):
    """Add some of a token's predecessor, as much as the token's first channels say."""

    def __init__(self, config: SmearGateConfig, dims: Dims) -> None:
        super().__init__()
        self.first_token = dims.bos_id if config.mask_bos else NO_TOKEN
        self.width = config.width
        self.gate = Projection(config.width, 1, role="gate", draw="zero")
        self.scale = filled((1,), 0.0, "gain")

    def forward(self, x: Float[Tensor, "B T D"], stream: Stream) -> Float[Tensor, "B T D"]:
        taken = self.scale.to(x.dtype) * self.gate(x[..., : self.width]).sigmoid()
        return x + taken * predecessors(x, stream, self.first_token)


def predecessors(x: Float[Tensor, "B T D"], stream: Stream, first_token: int) -> Float[Tensor, "B T D"]:
    """Give each token's predecessor, zero at the start of a window and at every `first_token`."""
    before = shift(x, 0.0, stream.cache, "smear_gate")
    return before.masked_fill((stream.tokens == first_token).unsqueeze(-1), 0.0)
