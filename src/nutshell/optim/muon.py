"""Muon: momentum, then the nearest orthogonal matrix as the update.

Source: Jordan et al. 2024 (the Muon write-up and modded-nanogpt). A matrix's gradient g is smoothed, Nesterov-style,
`b <- mu b + g; u = g + mu b`, and u is orthogonalised by Newton-Schulz steps `X <- aX + (bA + cA^2) X`, `A = X X^T`,
which push all singular values near 1. The update is scaled by sqrt(max(1, rows/cols)). Matrices of equal shape are
stacked, so that each product is one batched call and the model needs no banks.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.nn.params import ParamRow

# Quintic coefficients tuned for speed, not convergence to exactly 1 (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
FROBENIUS_EPS = 1e-7


def orthogonalise(updates: Float[Tensor, "N R C"], *, steps: int, dtype: torch.dtype) -> Float[Tensor, "N R C"]:
    """Push the singular values of each matrix near 1, in `dtype`; the short side leads the products."""
    x = updates.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + FROBENIUS_EPS).to(dtype)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return (x.mT if tall else x).to(updates.dtype)


class Muon:
    """Muon over matrices, stacked by shape.

    Args:
        rows: the matrices, each [R C].
        lr: learning rate before the curve's multiplier.
        weight_decay: decoupled, `w <- w (1 - lr wd)` before the update.
        steps: Newton-Schulz steps.
        dtype: precision of the Newton-Schulz products.
    """

    def __init__(
        self, rows: Sequence[ParamRow], *, lr: float, weight_decay: float, steps: int, dtype: torch.dtype
    ) -> None:
        by_shape: dict[tuple[int, ...], list[ParamRow]] = defaultdict(list)
        for row in rows:
            assert len(row.shape) == 2, f"Muon takes matrices, {row.name} is {row.shape}"
            by_shape[row.shape].append(row)
        self.lr, self.weight_decay, self.steps, self.dtype = lr, weight_decay, steps, dtype
        self._stacks = [[row.value for row in stack] for stack in by_shape.values()]
        self._momenta = [torch.zeros(len(stack), *stack[0].shape, device=stack[0].device) for stack in self._stacks]

    @torch.no_grad()
    def step(self, *, lr_scale: float, momentum: float) -> None:
        """Update every matrix that has a gradient; one without is left alone, momentum and all."""
        lr = self.lr * lr_scale
        for matrices, buffer in zip(self._stacks, self._momenta, strict=True):
            by_index = {index: matrix.grad for index, matrix in enumerate(matrices) if matrix.grad is not None}
            if not by_index:
                continue
            reached, grads = list(by_index), torch.stack(list(by_index.values()))
            smoothed = buffer[reached].mul_(momentum).add_(grads)
            buffer[reached] = smoothed
            updates = orthogonalise(grads.add_(smoothed, alpha=momentum), steps=self.steps, dtype=self.dtype)
            rows, cols = matrices[0].shape
            for index, update in zip(reached, updates, strict=True):
                matrices[index].mul_(1.0 - lr * self.weight_decay)
                matrices[index].add_(update, alpha=-lr * max(1.0, rows / cols) ** 0.5)

    def state(self) -> dict[str, Tensor]:
        """Name the live momentum buffers, for a checkpoint to read or write in place."""
        return {"x".join(map(str, buffer.shape)): buffer for buffer in self._momenta}
