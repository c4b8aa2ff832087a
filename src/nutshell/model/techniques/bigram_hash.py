"""Bigram hash: each token and the one before it look up one row of a hashed table, added to the embedded token.

What:      x_t <- x_t + s * P B[i_t]. xor: i_t = (36313 token_t XOR 27191 token_{t-1}) mod (buckets - 1); where a
           window or a document begins, i_t is the last row, which no pair reaches. product: i_t = (V token_{t-1} +
           token_t) mod buckets; where a window or a document begins, nothing is added.
Source:    openai/parameter-golf 135, 162; 686, 167 (shared/spec/recur45-686.md 1.2, layer-sharing-167.md 1.3).
Shapes:    x [B T D]; B [buckets dim], P [D dim], s scalar.
Init:      s = 0.05, or there is none. One of B and P is zero, so at first the identity; with both zero no gradient
           would ever flow.
Cost:      buckets dim + dim D parameters and one for s, 2 dim D FLOPs a token, once.
Sees:      the current token and the one before it, within a document.
Interacts: listed before embed_norm, which then normalises the sum.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.seams import Dims, InputKind, Stream
from nutshell.nn.params import Normal, filled, parameter
from nutshell.nn.projection import Projection

TOKEN_FACTOR, PREVIOUS_FACTOR = 36313, 27191
TABLE_STD = 0.02
SCALE = 0.05


class BigramHashConfig(InputKind, frozen=True, kw_only=True, tag="bigram_hash"):
    """Rows and width of the table, the first factor on it, and which of table and projection starts at zero.

    `std` is the table's first standard deviation where it does not start at zero. `hash` numbers a pair's row; `scaled`
    says whether there is a factor at all. #167's first version is `hash = "product"`, `scaled = false`, `dim = 32` and
    `zero = "projection"`.
    """

    buckets: int
    dim: int = 128
    hash: Literal["xor", "product"] = "xor"
    scaled: bool = True
    scale: float = SCALE
    zero: Literal["table", "projection"] = "table"
    std: float = TABLE_STD

    def __post_init__(self) -> None:
        if self.buckets < 2:
            raise ValueError(f"buckets must be at least 2, one of them reserved, got {self.buckets}")
        if self.dim < 1 or self.std <= 0 or self.scale == 0:
            raise ValueError(f"need dim {self.dim} >= 1, std {self.std} > 0, and a scale {self.scale} that is not 0")
        if not self.scaled and self.scale != SCALE:
            raise ValueError(f"scale {self.scale} has no effect: scaled is false")
        if self.zero == "table" and self.std != TABLE_STD:
            raise ValueError(f"std {self.std} has no effect: the table starts at zero")

    def build(self, dims: Dims) -> "BigramHash":
        return (BigramHash if self.hash == "xor" else ProductHash)(self, dims)

    def num_params(self, dims: Dims) -> int:
        return self.dim * (self.buckets + dims.model_dim) + self.scaled

    def flops(self, dims: Dims) -> int:
        return 2 * self.dim * dims.model_dim


class BigramHash(nn.Module):
    """Look up, project and add the row of each pair."""

    def __init__(self, config: BigramHashConfig, dims: Dims) -> None:
        super().__init__()
        silent = config.zero == "table"
        self.bos_id, self.vocab_size = dims.bos_id, dims.vocab_size
        self.table = parameter(
            torch.empty(config.buckets, config.dim), "embedding", "zero" if silent else Normal(config.std)
        )
        self.project = Projection(config.dim, dims.model_dim, role="projection", draw="matrix" if silent else "zero")
        self.scale = filled((1,), config.scale, "gain") if config.scaled else None

    def begins(self, tokens: Int[Tensor, "B T"], previous: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Say where nothing comes before a token, in its window or its document."""
        return (previous < 0) | (tokens == self.bos_id)

    def rows(self, tokens: Int[Tensor, "B T"], previous: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Number the table's row of each token; `previous` is -1 where there is none.

        In int64: the first product leaves int32 at token 59,139, which changed the published hash there.
        """
        reserved = self.table.shape[0] - 1
        pairs = (TOKEN_FACTOR * tokens.long()) ^ (PREVIOUS_FACTOR * previous.long())
        return torch.where(self.begins(tokens, previous), reserved, pairs % reserved)

    def look_up(self, stream: Stream) -> Float[Tensor, "B T dim"]:
        return F.embedding(self.rows(stream.tokens, stream.previous), self.table)

    def forward(self, x: Float[Tensor, "B T D"], stream: Stream) -> Float[Tensor, "B T D"]:
        added = self.project(self.look_up(stream).to(x.dtype))
        return x + (added if self.scale is None else self.scale.to(x.dtype) * added)


class ProductHash(BigramHash):
    """The same by the number of a pair among all pairs, which reaches every row: nothing stands for no pair."""

    def rows(self, tokens: Int[Tensor, "B T"], previous: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        return (self.vocab_size * previous.long() + tokens.long()) % self.table.shape[0]

    def look_up(self, stream: Stream) -> Float[Tensor, "B T dim"]:
        nothing = self.begins(stream.tokens, stream.previous).unsqueeze(-1)
        return super().look_up(stream).masked_fill(nothing, 0.0)
