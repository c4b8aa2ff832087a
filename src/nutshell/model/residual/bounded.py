"""Bounded recurrence: a visit's result is a sub-convex mix of the stream, the embedded input and the two branches.

What:      u = entry(x);  A = attention(u);  M = mlp(u + A);  x <- c_0 x + c_1 x0 + tau (c_2 A + c_3 M), c = softmax(g).
Source:    `BOUNDED_RECURRENCE` of openai/parameter-golf 167 (shared/spec/layer-sharing-167.md 1.2).
Shapes:    state x [B T D]; g [4], for each visit.
Init:      g = (2, 1/2, 0, 0): c = (0.669, 0.149, 0.091, 0.091). Not the identity.
Cost:      4 parameters a visit; no matrix products.
Sees:      the current token.
Interacts: carried on is x, not u: what an entry adds reaches the branches alone. Skips join outside the bound. c is
           computed in fp32 and cast; as published it would make the whole stream fp32.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.residual.rule import RuleKind, Step
from nutshell.model.rows import of_visit
from nutshell.model.seams import Branch, Place, Stream
from nutshell.nn.params import parameter

FIRST_LOGITS = (2.0, 0.5, 0.0, 0.0)


class BoundedConfig(RuleKind, frozen=True, kw_only=True, tag="bounded"):
    """The factor on the branches' part; below 1 the mix is less than convex."""

    tau: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau must be above 0 and at most 1, got {self.tau}")

    def build(self, place: Place) -> "BoundedStep":
        return BoundedStep(self, place)

    def num_params(self, place: Place) -> int:
        return len(FIRST_LOGITS) * place.num_visits


class BoundedStep(Step):
    """Mix the stream, the embedded input and the branches by the visit's own weights."""

    def __init__(self, config: BoundedConfig, place: Place) -> None:
        super().__init__(config, place)
        self.tau = config.tau
        self.logits = nn.ParameterList(parameter(torch.tensor(FIRST_LOGITS), "gate") for _ in range(place.num_visits))

    def forward(
        self, state: Float[Tensor, "B T D"], visit: VirtualLayer, attention: Branch, mlp: Branch, stream: Stream
    ) -> Float[Tensor, "B T D"]:
        u = self.entry(state, visit, stream)
        read = attention(u)
        made = mlp(u + read)
        mix = of_visit(self.logits, visit).softmax(dim=0).to(state.dtype)
        return mix[0] * state + mix[1] * stream.x0 + self.tau * (mix[2] * read + mix[3] * made)

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        mix = of_visit(self.logits, visit).softmax(dim=0)
        return {"stream": mix[0], "input": mix[1], "attention": self.tau * mix[2], "mlp": self.tau * mix[3]}
