"""Sequential residual: attention is added to the stream, then the MLP reads what it made of it.

What:      u = entry(x);  h = u + attention(u);  y = h + mlp(h).
Source:    Vaswani et al. 2017; pre-norm form of Radford et al. 2019.
Shapes:    state x [B T D].
Init:      no parameters but the entry list's; with silent branches and an empty list the identity.
Cost:      none.
Sees:      the current token.
Interacts: with nothing.
"""

from jaxtyping import Float
from torch import Tensor

from nutshell.model.depth import VirtualLayer
from nutshell.model.residual.rule import RuleKind, Step
from nutshell.model.seams import Branch, Place, Stream


class SequentialConfig(RuleKind, frozen=True, kw_only=True, tag="sequential"):
    """No settings but the entry list."""

    def build(self, place: Place) -> "SequentialStep":
        return SequentialStep(self, place)


class SequentialStep(Step):
    """Add one branch after the other."""

    def forward(
        self, state: Float[Tensor, "B T D"], visit: VirtualLayer, attention: Branch, mlp: Branch, stream: Stream
    ) -> Float[Tensor, "B T D"]:
        x = self.entry(state, visit, stream)
        x = x + attention(x)
        return x + mlp(x)
