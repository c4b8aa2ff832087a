"""Bigram hash: each token and the one before it look up one row of a hashed table, added to the embedded token.

What:      x_t <- x_t + s * P B[i_t], i_t = (36313 token_t XOR 27191 token_{t-1}) mod (buckets - 1); where a window or a
           document begins, i_t is the last row, which no pair reaches.
Source:    openai/parameter-golf 135, 162; 686, 167 (shared/spec/recur45-686.md 1.2, layer-sharing-167.md 1.3).
Shapes:    x [B T D]; B [buckets dim], P [D dim], s scalar.
Init:      s = 0.05, and one of B and P is zero, so at first the identity; with both zero no gradient would ever flow.
Cost:      buckets dim + dim D + 1 parameters, 2 dim D FLOPs a token, once.
Sees:      the current token and the one before it, within a document.
Interacts: listed before embed_norm, which then normalises the sum.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.seams import Dims, InputKind, Stream
from nutshell.nn.params import Normal, filled, parameter
from nutshell.nn.projection import Projection

TOKEN_FACTOR, PREVIOUS_FACTOR = 36313, 27191
TABLE_STD = 0.02


class BigramHashConfig(InputKind, frozen=True, kw_only=True, tag="bigram_hash"):
    """Rows and width of the table, the first factor on it, and which of table and projection starts at zero.

    `std` is the table's first standard deviation where it does not start at zero.
    """

    buckets: int
    dim: int = 128
    scale: float = 0.05
    zero: Literal["table", "projection"] = "table"
    std: float = TABLE_STD

    def __post_init__(self) -> None:
        if self.buckets < 2:
            raise ValueError(f"buckets must be at least 2, one of them reserved, got {self.buckets}")
        if self.dim < 1 or self.std <= 0 or self.scale == 0:
            raise ValueError(f"need dim {self.dim} >= 1, std {self.std} > 0, and a scale {self.scale} that is not 0")
        if self.zero == "table" and self.std != TABLE_STD:
            raise ValueError(f"std {self.std} has no effect: the table starts at zero")

    def build(self, dims: Dims) -> "BigramHash":
        return BigramHash(self, dims)

    def num_params(self, dims: Dims) -> int:
        return self.dim * (self.buckets + dims.model_dim) + 1

    def flops(self, dims: Dims) -> int:
        return 2 * self.dim * dims.model_dim


class BigramHash(nn.Module):
    """Look up, project and add the row of each pair."""

    def __init__(self, config: BigramHashConfig, dims: Dims) -> None:
        super().__init__()
        silent = config.zero == "table"
        self.bos_id = dims.bos_id
        self.table = parameter(
            torch.empty(config.buckets, config.dim), "embedding", "zero" if silent else Normal(config.std)
        )
        self.project = Projection(config.dim, dims.model_dim, role="projection", draw="matrix" if silent else "zero")
        self.scale = filled((1,), config.scale, "gain")

    def rows(self, tokens: Int[Tensor, "B T"], previous: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Number the table's row of each token; `previous` is -1 where there is none.

        In int64: the first product leaves int32 at token 59,139, which changed the published hash there.
        """
        reserved = self.table.shape[0] - 1
        pairs = (TOKEN_FACTOR * tokens.long()) ^ (PREVIOUS_FACTOR * previous.long())
        begins = (previous < 0) | (tokens == self.bos_id)
        return torch.where(begins, reserved, pairs % reserved)

    def forward(self, x: Float[Tensor, "B T D"], stream: Stream) -> Float[Tensor, "B T D"]:
        looked_up = F.embedding(self.rows(stream.tokens, stream.previous), self.table).to(x.dtype)
        return x + self.scale.to(x.dtype) * self.project(looked_up)
