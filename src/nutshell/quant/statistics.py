"""What a quantizer may know of a matrix besides its weights: how far the loss moves where they do."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Statistics:
    """The curvature of the loss about one matrix, as the product of a factor of its inputs and one of its outputs.

    A change d [R C] of the weights costs about `1/2 sum_r row_weights[r] d[r]^T hessian d[r]` nats a token: the
    Kronecker-factored Fisher information (Martens and Grosse 2015, arXiv:1503.05671) with the outputs' factor cut down
    to its diagonal. `quant/calibrate.py` says how both are measured.

    Attributes:
        hessian: mean over tokens of x x^T, x the matrix' input, summed over the visits of its block; of a table looked
            up by token, of the gradient at the vector that was looked up. Symmetric, and singular where an input is
            never used: damping is the solver's. In the units of x squared.
        row_weights: what brings each row to nats; positive.
    """

    hessian: Float64[Tensor, "C C"]
    row_weights: Float64[Tensor, " R"]

    def __post_init__(self) -> None:
        channels = len(self.hessian)
        assert self.hessian.shape == (channels, channels), f"a Hessian is square, got {tuple(self.hessian.shape)}"
        assert self.row_weights.ndim == 1, f"one weight a row, got {tuple(self.row_weights.shape)}"
        assert self.hessian.dtype == self.row_weights.dtype == torch.float64, "statistics are float64"
        assert bool((self.row_weights > 0).all()), "a row without weight would have a step without end"

    def cost(self, change: Float[Tensor, "R C"]) -> float:
        """Give the nats a token that a change of the weights is expected to cost."""
        wide = change.double()
        return 0.5 * torch.einsum("r,rc,cd,rd->", self.row_weights, wide, self.hessian, wide).item()
