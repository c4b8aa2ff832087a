"""Birkhoff mixing: every visit begins between the stream and the embedded input, channel by channel.

What:      u = a * x + (1 - a) * x0, a = sigmoid(l).
Source:    openai/parameter-golf 855 (shared/spec/recurrence-study-855.md 1.3, T2), after the doubly stochastic mixing
           of Xie et al. 2025 (arXiv:2512.24880) and Yang and Gao 2026 (arXiv:2601.05732).
Shapes:    l [D], for each block or for each of its visits.
Init:      l as stated: 0 is half of each. Not the identity.
Cost:      D parameters a block or visit; no matrix products.
Sees:      the current token.
Interacts: a leak, not a doubly stochastic map, since x0 is never updated: each visit keeps a of what the stream holds.
           In the first virtual layer x is x0 and l does nothing, unless an entry before it moved x; the published
           models carry that dead l, `blocks` leaves it out.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.rows import filled_rows, of_visit
from nutshell.model.seams import BlockKind, Per, Place, Stream


class BirkhoffConfig(BlockKind, frozen=True, kw_only=True, tag="birkhoff"):
    """The first value of l, and whether all visits of a block share it."""

    needs_moved_stream: ClassVar[bool] = True
    init_logit: float = 0.0
    per: Per = "block"

    def build(self, place: Place) -> "Birkhoff":
        return Birkhoff(self, place)

    def num_params(self, place: Place) -> int:
        return place.dims.model_dim * place.rows(self.per)


class Birkhoff(nn.Module):
    """Interpolate between the embedded input and the stream."""

    def __init__(self, config: BirkhoffConfig, place: Place) -> None:
        super().__init__()
        self.gate = filled_rows(place.rows(config.per), (place.dims.model_dim,), config.init_logit, "gate")

    def forward(self, x: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        keep = of_visit(self.gate, visit).sigmoid().to(x.dtype)
        return keep * x + (1 - keep) * stream.x0

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"alpha": of_visit(self.gate, visit).sigmoid()}
