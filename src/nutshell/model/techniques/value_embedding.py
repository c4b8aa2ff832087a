"""Value embedding: the token's own row of a second table is added to attention's values.

What:      v <- v + r * s * P U[token], the table U, the projection P and the scale s shared by all blocks.
Source:    modded-nanogpt (Jordan et al. 2024); `VE128` of openai/parameter-golf 549 and 686 (shared/spec/recur45-686.md
           1.6).
Shapes:    v [B T K E]; U [V dim], P [K E, dim], s scalar; r scalar, for each block or for each of its visits.
Init:      U normal with standard deviation 0.01, P drawn like any matrix, s = 0.1, r = 1: small, not the identity.
Cost:      V dim + dim K E + 1 parameters and dim K E multiplications a token, once; 1 parameter a block or visit.
Sees:      the current token.
Interacts: comes before XSA and before what a value residual keeps of the first layer.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.depth import VirtualLayer
from nutshell.model.rows import filled_rows, of_visit
from nutshell.model.seams import Dims, Per, Place, Stream, ValueKind
from nutshell.nn.params import Normal, filled, parameter
from nutshell.nn.projection import Projection

NAME = "value_embedding"


class ValueEmbeddingConfig(ValueKind, frozen=True, kw_only=True, tag=NAME):
    """Width of the table, and whether all visits of a block share the weight r."""

    dim: int = 128
    std: float = 0.01
    scale: float = 0.1
    per: Per = "block"

    def __post_init__(self) -> None:
        if self.dim < 1 or self.std <= 0 or self.scale == 0:
            raise ValueError(f"need dim {self.dim} >= 1, std {self.std} > 0, and a scale {self.scale} that is not 0")

    def build(self, place: Place) -> "ValueEmbedding":
        return ValueEmbedding(self, place)

    def build_table(self, dims: Dims) -> "ValueTable":
        return ValueTable(self, dims)

    def num_params(self, place: Place) -> int:
        return place.rows(self.per)

    def num_table_params(self, dims: Dims) -> int:
        return self.dim * (dims.vocab_size + dims.num_kv_heads * dims.head_dim) + 1

    def table_flops(self, dims: Dims) -> int:
        return 2 * self.dim * dims.num_kv_heads * dims.head_dim


class ValueTable(nn.Module):
    """Look up and project every token's row, once for all blocks."""

    def __init__(self, config: ValueEmbeddingConfig, dims: Dims) -> None:
        super().__init__()
        self.head_dim = dims.head_dim
        self.table = parameter(torch.empty(dims.vocab_size, config.dim), "embedding", Normal(config.std))
        self.project = Projection(config.dim, dims.num_kv_heads * dims.head_dim, role="projection")
        self.scale = filled((1,), config.scale, "gain")

    def forward(self, tokens: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B T K E"]:
        rows = F.embedding(tokens, self.table).to(dtype)
        return (self.scale.to(dtype) * self.project(rows)).unflatten(-1, (-1, self.head_dim))


class ValueEmbedding(nn.Module):
    """Add the token's projected row."""

    def __init__(self, config: ValueEmbeddingConfig, place: Place) -> None:
        super().__init__()
        self.gain = filled_rows(place.rows(config.per), (1,), 1.0, "gain")

    def forward(self, v: Float[Tensor, "B T K E"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T K E"]:
        return v + of_visit(self.gain, visit).to(v.dtype) * stream.tables[NAME]
