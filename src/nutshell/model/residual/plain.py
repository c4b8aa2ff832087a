"""Plain residual: x + attention(x), then x + mlp(x).

What:      the pre-norm transformer's two additions, without parameters.
Source:    Vaswani et al. 2017; pre-norm form of Radford et al. 2019.
Shapes:    state x [B T D].
Init:      no parameters; with zero-initialised output projections the whole stack is the identity.
Cost:      none.
Sees:      the current token.
Interacts: with nothing.
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import Branch, Dims


class PlainConfig(Kind, frozen=True, tag="plain"):
    """No settings."""

    def start(self, x: Float[Tensor, "B T D"]) -> "PlainState":
        return PlainState(x)

    def build(self, dims: Dims) -> "PlainStep":
        return PlainStep()

    def num_params(self, dims: Dims) -> int:
        """Count the parameters of one block."""
        return 0


class PlainState(NamedTuple):
    """The stream alone."""

    x: Float[Tensor, "B T D"]

    def read(self) -> Float[Tensor, "B T D"]:
        return self.x

    def join(self, addition: Float[Tensor, "B T D"]) -> "PlainState":
        return PlainState(self.x + addition)

    def finish(self) -> Float[Tensor, "B T D"]:
        return self.x


class PlainStep(nn.Module):
    """Add one branch after the other."""

    def forward(self, state: PlainState, visit: VirtualLayer, attention: Branch, mlp: Branch) -> PlainState:
        x = state.x + attention(state.x)
        return PlainState(x + mlp(x))
