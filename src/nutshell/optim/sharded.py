"""What optimizers exchange among ranks, started early and awaited late; with one rank nothing is sent.

All ranks must start the same exchanges in the same order.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from nutshell.ranks import Ranks

# Torch 2.13 renamed both; 2.11 has the old names alone.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(slots=True)
class Pending:
    """A tensor that is on its way; `sent` must live until it has arrived."""

    result: Tensor
    work: dist.Work | None = None
    sent: Tensor | None = None

    def wait(self) -> Tensor:
        """Give the tensor once it is here; on a GPU only its stream waits.

        The exchange is awaited once: gloo copies its result at every wait, over what has become of it since.
        """
        if self.work is not None:
            self.work.wait()
            self.work = self.sent = None
        return self.result


def sum_parts(stack: Float[Tensor, "N R C"], ranks: Ranks) -> Pending:
    """Sum over the ranks, and give each its part of the sum, [N/ranks R C]; ranks divide N."""
    if ranks.size == 1:
        return Pending(stack)
    part = stack.new_empty(len(stack) // ranks.size, *stack.shape[1:])
    return Pending(part, _reduce_scatter(part, stack, async_op=True), stack)


def gather_parts(part: Float[Tensor, "n R C"], ranks: Ranks) -> Pending:
    """Put the ranks' parts together on all of them, [ranks*n R C]."""
    if ranks.size == 1:
        return Pending(part)
    sent = part.contiguous()
    stack = part.new_empty(ranks.size * len(part), *part.shape[1:])
    return Pending(stack, _all_gather(stack, sent, async_op=True), sent)


def sum_whole(flat: Tensor, ranks: Ranks) -> Pending:
    """Sum over the ranks, the whole of it on all of them; in place."""
    if ranks.size == 1:
        return Pending(flat)
    return Pending(flat, dist.all_reduce(flat, async_op=True))


def smallest(number: int, ranks: Ranks) -> int:
    """Give the smallest of the ranks' numbers."""
    if ranks.size == 1:
        return number
    held = torch.tensor([number], device=ranks.device)
    dist.all_reduce(held, op=dist.ReduceOp.MIN)
    return int(held.item())
