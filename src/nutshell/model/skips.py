"""How a skip joins the stream; which skips there are is the schedule's business (depth.py).

What:      add_skip: x <- x + w * s. gated_skip: x <- (1 - sigmoid(g)) * (w * s) + sigmoid(g) * x.
Source:    add_skip: U-Net skips of modded-nanogpt (Jordan et al. 2024). gated_skip: openai/parameter-golf 1394
           (shared/spec/sp8192-loop36.md 1.3).
Shapes:    x, s [B T D]; w, g [D] for each skip.
Init:      w = 1, g = 0: a gated skip starts as the average of skip and stream, an added one as the sum.
Cost:      D parameters a skip, 2 D if gated; no matrix products.
Sees:      the current token.
Interacts: with parallel lanes, skips leave from and join the attention lane.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import Dims
from nutshell.nn.params import filled


class AddSkipConfig(Kind, frozen=True, tag="add_skip"):
    """No settings."""

    def build(self, dims: Dims) -> "AddSkip":
        return AddSkip(dims)

    def num_params(self, dims: Dims) -> int:
        """Count the parameters of one skip."""
        return dims.model_dim


class GatedSkipConfig(Kind, frozen=True, tag="gated_skip"):
    """No settings."""

    def build(self, dims: Dims) -> "GatedSkip":
        return GatedSkip(dims)

    def num_params(self, dims: Dims) -> int:
        """Count the parameters of one skip."""
        return 2 * dims.model_dim


JoinConfig = AddSkipConfig | GatedSkipConfig


class AddSkip(nn.Module):
    """Add the scaled skip."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.scale = filled((dims.model_dim,), 1.0, "scale")

    def forward(self, x: Float[Tensor, "B T D"], skip: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return x + self.scale.to(x.dtype) * skip

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"scale": self.scale}


class GatedSkip(nn.Module):
    """Interpolate between the scaled skip and the stream."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.scale = filled((dims.model_dim,), 1.0, "scale")
        self.gate = filled((dims.model_dim,), 0.0, "gate")

    def forward(self, x: Float[Tensor, "B T D"], skip: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        keep = self.gate.sigmoid().to(x.dtype)
        return (1 - keep) * (self.scale.to(x.dtype) * skip) + keep * x

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"scale": self.scale, "keep": self.gate.sigmoid()}
