"""How far a visit can stretch a small error in the stream: the largest singular value of its Jacobian.

Power iteration on J^T J from a fixed random start; the value rises towards the true one. Only the visit's own map is
differentiated: x0, skips and first values stay as they were. J v is the derivative of J^T u by u, applied to v, since
torch's forward mode does not know every operation.
"""

from typing import Any

import torch
from torch import Tensor

from nutshell.model.lm import LM
from nutshell.model.probes.trace import Lane, VisitRun, lanes


def jacobian_norm(model: LM, run: VisitRun, *, steps: int) -> float:
    """Estimate from below the spectral norm of the derivative of the stream after a visit by that before it.

    Args:
        model: the eager twin that ran.
        run: the visit.
        steps: of the power iteration, at least 1.
    """
    with torch.enable_grad():
        before = [lane.detach().requires_grad_() for lane in lanes(run.entered)]
        after = _visit(model, run, before)
        cotangent = [torch.zeros_like(lane).requires_grad_() for lane in after]
        pulled = torch.autograd.grad(after, before, cotangent, create_graph=True)
    generator = torch.Generator(device=before[0].device).manual_seed(0)
    direction = [torch.randn(lane.shape, generator=generator, device=lane.device) for lane in before]
    stretched = torch.zeros(())
    for _ in range(steps):
        length = _length(direction)
        direction = [lane / length for lane in direction]
        pushed = torch.autograd.grad(pulled, cotangent, direction, retain_graph=True)
        stretched = _length(pushed)
        direction = torch.autograd.grad(after, before, pushed, retain_graph=True)
    return stretched.item()


def _visit(model: LM, run: VisitRun, before: list[Lane]) -> tuple[Lane, ...]:
    stream = run.stream._replace(attend_kind="products")  # torch's fused kernels have no second derivative
    state: Any = tuple(before) if isinstance(run.entered, tuple) else before[0]
    left, _values = model.blocks[run.visit.block](state, run.visit, stream)
    return lanes(left)


def _length(vectors: list[Lane] | tuple[Tensor, ...]) -> Tensor:
    """Give the Euclidean norm of all lanes together."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(lane) for lane in vectors]))
