"""Newton-Schulz: push all singular values of a matrix near 1 by products alone.

One step is `X <- aX + (bA + cA^2) X`, `A = X X^T`: an odd quintic of every singular value, the vectors stay as they
are. The coefficients decide how fast small values rise and how near to 1 all of them end.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Coefficients = Literal["jordan", "polar_express"]
# Below any norm of interest; keeps a zero matrix zero.
FROBENIUS_EPS = 1e-7


class Quintic(NamedTuple):
    """Coefficients of x, x^3 and x^5."""

    a: float
    b: float
    c: float


# One triple for all steps, tuned for speed (Jordan et al. 2024): values from 0.002 on end between 0.68 and 1.20.
JORDAN = Quintic(3.4445, -4.7750, 2.0315)
# One triple a step, each the best for what the ones before it left: Amsel et al. 2025 (arXiv:2505.16932), in the form
# of modded-nanogpt: five steps, with a safety factor of 0.02 (in them already, and in MARGIN) and a cushion of 2.
# Values from 0.001 on end between 0.84 and 1.15.
POLAR_EXPRESS = (
    Quintic(8.156554524902461, -22.48329292557795, 15.878769915207462),
    Quintic(4.042929935166739, -2.808917465908714, 0.5000178451051316),
    Quintic(3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    Quintic(3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    Quintic(2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# How far below 1 the largest value starts: a value of 1.03 diverges, and bf16 rounds.
MARGIN: dict[Coefficients, float] = {"jordan": 0.0, "polar_express": 0.02}


def quintics(coefficients: Coefficients, steps: int) -> tuple[Quintic, ...]:
    """Give the quintics of so many steps.

    Raises:
        ValueError: not as many are published.
    """
    if coefficients == "jordan":
        return (JORDAN,) * steps
    if steps > len(POLAR_EXPRESS):
        raise ValueError(f"polar_express has coefficients for {len(POLAR_EXPRESS)} steps, got {steps}")
    return POLAR_EXPRESS[:steps]


def orthogonalise(
    updates: Float[Tensor, "N R C"], steps: Sequence[Quintic], *, margin: float = 0.0, dtype: torch.dtype
) -> Float[Tensor, "N R C"]:
    """Push the singular values of each matrix near 1; the short side leads the products.

    Args:
        updates: the matrices.
        steps: the quintic of each step.
        margin: how far below 1 the Frobenius norm is brought first, as a fraction.
        dtype: precision of the products, and of the result.
    """
    x = updates.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    norm = x.float().norm(dim=(-2, -1), keepdim=True)
    x = x / (norm * (1.0 + margin) + FROBENIUS_EPS).to(dtype)
    for a, b, c in steps:
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.mT if tall else x
