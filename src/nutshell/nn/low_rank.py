"""Low-rank matrix: down to `rank` channels and up again, nothing between.

What:      y = W2 W1 x, with `rank` rows in W1 and no nonlinearity.
Source:    `Q_RANK` of openai/parameter-golf 167, for q alone (shared/spec/layer-sharing-167.md 1.3).
Shapes:    x [*any C], W1 [rank C], W2 [R rank], y [*any R].
Init:      orthogonal: all `rank` singular values of W2 W1 are 1. uniform: its elements have the dense draw's variance.
           At the end of a branch W2 alone is zero: with W1 zero too no gradient would ever reach either.
Cost:      rank (R + C) parameters, 2 rank (R + C) FLOPs a token.
Sees:      the current token.
Interacts: Muon orthogonalises each factor's update, not the product's.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.nn.params import MatrixDraw
from nutshell.nn.projection import Projection


class LowRankConfig(Kind, frozen=True, kw_only=True, tag="low_rank"):
    """Channels between the two factors."""

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")

    def build(self, in_dim: int, out_dim: int, *, draw: MatrixDraw = "matrix") -> "LowRank":
        return LowRank(in_dim, out_dim, self.rank, draw=draw)

    def num_params(self, in_dim: int, out_dim: int) -> int:
        return self.rank * (in_dim + out_dim)

    def flops(self, in_dim: int, out_dim: int) -> int:
        """Count the FLOPs of one token."""
        return 2 * self.num_params(in_dim, out_dim)


class LowRank(nn.Module):
    """Project down, then up."""

    def __init__(self, in_dim: int, out_dim: int, rank: int, *, draw: MatrixDraw) -> None:
        super().__init__()
        self.down = Projection(in_dim, rank, draw="factor")
        self.up = Projection(rank, out_dim, draw="zero" if draw == "zero" else "factor")

    def forward(self, x: Float[Tensor, "*any C"]) -> Float[Tensor, "*any R"]:
        return self.up(self.down(x))
