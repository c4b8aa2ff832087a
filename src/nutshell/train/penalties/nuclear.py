"""Nuclear norm: matrices lean towards low rank.

What:      the sum of all singular values of all parameters of role `matrix`; a term of the loss, not a proximal step.
Source:    `NUCLEAR_NORM_WEIGHT` of openai/parameter-golf 167 (shared/spec/layer-sharing-167.md 1.5), a proximal step
           that crashed at the first matrix that is not square: it took the full SVD. Gradient U V^T: Watson 1992.
Shapes:    w [R C] = U S V^T, thin: U [R K], V [C K], K = min(R, C).
Cost:      one thin SVD a matrix, O(R C K), every `every` steps.
Interacts: of a matrix made of factors, each factor is penalized: for `low_rank` a bound on the product's norm, for
           `kronecker` the product of the two norms is the product's. Muon orthogonalizes U V^T with the rest of the
           gradient. The exporter's grid does not see a row's scale, so this makes no weight cheaper by itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.nn.params import ParamTable
from nutshell.quant.config import QuantRule
from nutshell.train.penalties.penalty import Penalty, PenaltyKind


class NuclearConfig(PenaltyKind, frozen=True, kw_only=True, tag="nuclear"):
    """`weight` in nats a token for each unit of a singular value; `every` as published."""

    every: int = 50

    def build(self, table: ParamTable, rules: Sequence[QuantRule]) -> Penalty:
        matrices = [row.value for row in table.with_role("matrix")]
        return Penalty(self, lambda: torch.stack([nuclear_norm(weight) for weight in matrices]).sum())


def nuclear_norm(weight: Float[Tensor, "R C"]) -> Float[Tensor, ""]:
    """Sum the singular values, in fp32; differentiable, also where values are equal or zero."""
    return _NuclearNorm.apply(weight)


class _NuclearNorm(torch.autograd.Function):
    """Torch's own gradient is any of the subgradients where a value is zero; this one is the smallest.

    It matters for the matrices that end a branch: they start as zero, and must not be pushed off in a random direction.
    """

    @staticmethod
    def forward(ctx: Any, weight: Float[Tensor, "R C"]) -> Float[Tensor, ""]:
        u, values, vh = torch.linalg.svd(weight.float(), full_matrices=False)
        rounding = max(weight.shape) * torch.finfo(values.dtype).eps * values[0]  # as torch.linalg.matrix_rank has it
        ctx.save_for_backward((u * (values > rounding)) @ vh)
        return values.sum()

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, ""]) -> Float[Tensor, "R C"]:
        (direction,) = ctx.saved_tensors
        return grad * direction
