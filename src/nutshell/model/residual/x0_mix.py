"""x0 mix: every block first mixes the embedded input back in, and scales its two branches channel by channel.

What:      u = m0 * x + m1 * x0;  h = u + a * attention(u);  y = h + b * mlp(h).
Source:    modded-nanogpt (Jordan et al. 2024), as in openai/parameter-golf 1493 (shared/spec/sp8192-loop36.md 1.2).
Shapes:    m0, m1, a, b [D]; state (x, x0), each [B T D].
Init:      m0 = a = b = 1, m1 = 0: the plain rule exactly.
Cost:      4 D parameters a block, shared by its visits; no matrix products.
Sees:      the current token.
Interacts: skips join x, never x0.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import Branch, Dims
from nutshell.nn.params import filled


class X0MixConfig(Kind, frozen=True, tag="x0_mix"):
    """No settings."""

    def start(self, x: Float[Tensor, "B T D"]) -> "X0State":
        # A copy, not an alias: compiled code would be specialised to the first block's x being x0.
        return X0State(x, x.clone())

    def build(self, dims: Dims) -> "X0MixStep":
        return X0MixStep(dims)

    def num_params(self, dims: Dims) -> int:
        """Count the parameters of one block."""
        return 4 * dims.model_dim


class X0State(NamedTuple):
    """The stream, and the embedded input it started from."""

    x: Float[Tensor, "B T D"]
    x0: Float[Tensor, "B T D"]

    def read(self) -> Float[Tensor, "B T D"]:
        return self.x

    def join(self, addition: Float[Tensor, "B T D"]) -> "X0State":
        return X0State(self.x + addition, self.x0)

    def finish(self) -> Float[Tensor, "B T D"]:
        return self.x


class X0MixStep(nn.Module):
    """One block's weights of stream, input and branches."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.stream_scale = filled((dims.model_dim,), 1.0, "scale")
        self.input_scale = filled((dims.model_dim,), 0.0, "scale")
        self.attention_scale = filled((dims.model_dim,), 1.0, "scale")
        self.mlp_scale = filled((dims.model_dim,), 1.0, "scale")

    def forward(self, state: X0State, visit: VirtualLayer, attention: Branch, mlp: Branch) -> X0State:
        dtype = state.x.dtype
        x = self.stream_scale.to(dtype) * state.x + self.input_scale.to(dtype) * state.x0
        x = x + self.attention_scale.to(dtype) * attention(x)
        x = x + self.mlp_scale.to(dtype) * mlp(x)
        return X0State(x, state.x0)
