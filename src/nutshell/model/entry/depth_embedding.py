"""Depth embedding: every visit begins by adding a learned vector of its own to the stream.

What:      u = x + e_v.
Source:    `learned depth embedding` of openai/parameter-golf 855 (shared/spec/recurrence-study-855.md 1.4, T6), `repeat
           embeddings` of 167 (shared/spec/layer-sharing-167.md 1.2); Dehghani et al. 2019 (arXiv:1807.03819).
Shapes:    e_v [D], for each visit.
Init:      e_v = 0: the identity.
Cost:      D parameters a visit; no matrix products.
Sees:      the current token.
Interacts: listed before x0_mix (167) it is mixed too, after Birkhoff mixing (855) it is not. It is cast to the
           stream's dtype; added as fp32, as published, it would make the whole stream fp32.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.rows import filled_rows, of_visit
from nutshell.model.seams import BlockKind, Place, Stream


class DepthEmbeddingConfig(BlockKind, frozen=True, kw_only=True, tag="depth_embedding"):
    """No settings but the blocks."""

    def build(self, place: Place) -> "DepthEmbedding":
        return DepthEmbedding(place)

    def num_params(self, place: Place) -> int:
        return place.dims.model_dim * place.num_visits


class DepthEmbedding(nn.Module):
    """Add the visit's own vector."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.rows = filled_rows(place.num_visits, (place.dims.model_dim,), 0.0, "scale")

    def forward(self, x: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        return x + of_visit(self.rows, visit).to(x.dtype)

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"added": of_visit(self.rows, visit)}
