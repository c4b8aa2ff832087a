"""Parallel residual: from a block on, attention and MLP read the same stream and are added to it together.

What:      from from_block on: u = entry(x);  y = u + attention(u) + mlp(u). Below, sequential.
Source:    GPT-J (Wang and Komatsuzaki 2021); from a block on, openai/parameter-golf 1412 and 1493
           (shared/spec/sp8192-loop36.md 1.2).
Shapes:    state x [B T D].
Init:      no parameters but the entry list's; with silent branches and an empty list the identity.
Cost:      none. A compiled region for each of the two forms.
Sees:      the current token.
Interacts: a block's form goes by its number, at each of its visits.
"""

from jaxtyping import Float
from torch import Tensor

from nutshell.model.depth import VirtualLayer
from nutshell.model.residual.rule import StartKind, Step
from nutshell.model.residual.sequential import SequentialStep
from nutshell.model.seams import Branch, Place, Stream


class ParallelConfig(StartKind, frozen=True, kw_only=True, tag="parallel"):
    """The first block whose branches act in parallel."""

    def build(self, place: Place) -> "ParallelStep | SequentialStep":
        return (ParallelStep if place.block >= self.from_block else SequentialStep)(self, place)


class ParallelStep(Step):
    """Add both branches at once."""

    def forward(
        self, state: Float[Tensor, "B T D"], visit: VirtualLayer, attention: Branch, mlp: Branch, stream: Stream
    ) -> Float[Tensor, "B T D"]:
        x = self.entry(state, visit, stream)
        return x + attention(x) + mlp(x)
