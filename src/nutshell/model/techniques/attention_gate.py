"""Attention gate: every head's output is weighed by a gate that the token's own input opens and closes.

What:      y_h <- ceiling * sigmoid(scale * (W h[:inputs])_h + b_h) * y_h.
Source:    Qiu et al. 2025 (arXiv:2505.06708), off in openai/parameter-golf 549; on few inputs: modded-nanogpt (Jordan
           et al. 2024), pull request 117; 1667, 1736 and 1787 (shared/spec/sp8192-loop36.md 5.2).
Shapes:    y [B T H E], h [B T D]; W [H inputs], b [H].
Init:      W = 0, b as stated: every gate is ceiling * sigmoid(b), with ceiling 2 and no b the identity.
Cost:      H inputs parameters a block, H more with b; 2 H inputs FLOPs a token and visit.
Sees:      the current token.
Interacts: commutes with XSA, which is linear in y. Reads h after modulate.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import BlockKind, Dims, Place, Stream
from nutshell.nn.params import filled
from nutshell.nn.projection import Projection


class AttentionGateConfig(BlockKind, frozen=True, kw_only=True, tag="attention_gate"):
    """What a gate reads, and its range.

    `inputs` is how many channels of h it reads (absent: all). `bias` is the first value of a learned b (absent: none).
    """

    inputs: int | None = None
    ceiling: float = 2.0
    scale: float = 1.0
    bias: float | None = None

    def __post_init__(self) -> None:
        if self.inputs is not None and self.inputs < 1:
            raise ValueError(f"inputs must be at least 1, got {self.inputs}")
        if self.ceiling <= 0 or self.scale <= 0:
            raise ValueError(f"ceiling {self.ceiling} and scale {self.scale} must be positive")

    def check(self, dims: Dims) -> None:
        if self.width(dims) > dims.model_dim:
            raise ValueError(f"attention_gate.inputs {self.inputs} is more than model_dim {dims.model_dim}")

    def width(self, dims: Dims) -> int:
        """Give the number of channels that a gate reads."""
        return dims.model_dim if self.inputs is None else self.inputs

    def build(self, place: Place) -> "AttentionGate":
        return AttentionGate(self, place.dims)

    def num_params(self, place: Place) -> int:
        return place.dims.num_heads * (self.width(place.dims) + (self.bias is not None))

    def flops(self, place: Place) -> int:
        return 2 * place.dims.num_heads * self.width(place.dims)


class AttentionGate(nn.Module):
    """Weigh every head's output."""

    def __init__(self, config: AttentionGateConfig, dims: Dims) -> None:
        super().__init__()
        self.width = config.width(dims)
        self.ceiling = config.ceiling
        self.scale = config.scale
        self.project = Projection(self.width, dims.num_heads, role="gate", draw="zero")
        self.offset = nn.Identity() if config.bias is None else Offset(dims.num_heads, config.bias)

    def forward(
        self,
        y: Float[Tensor, "B T H E"],
        v: Float[Tensor, "B T K E"],
        h: Float[Tensor, "B T D"],
        visit: VirtualLayer,
        stream: Stream,
    ) -> Float[Tensor, "B T H E"]:
        opening = self.offset(self.scale * self.project(h[..., : self.width]))
        return self.ceiling * opening.sigmoid().unsqueeze(-1) * y


class Offset(nn.Module):
    """Add a learned number for each head."""

    def __init__(self, num_heads: int, first: float) -> None:
        super().__init__()
        self.bias = filled((num_heads,), first, "gate")

    def forward(self, opening: Float[Tensor, "B T H"]) -> Float[Tensor, "B T H"]:
        return opening + self.bias.to(opening.dtype)
