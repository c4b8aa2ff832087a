"""The processes that train one model together: which of them this is, and what they tell one another.

`torchrun` starts them and says so in the environment; without it there is one, and nothing here communicates.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size` of them."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, value: float, device: torch.device | None = None) -> float:
        """Give every rank the first one's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(shared, src=0)
        return shared.item()

    def any(self, flag: bool, device: torch.device | None = None) -> bool:  # the question's own answer
        """Say whether any rank says so."""
        if self.size == 1:
            return flag
        shared = torch.tensor([int(flag)], device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def add(self, value: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value


ALONE = Ranks()


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that the environment names, over NCCL on GPUs and gloo elsewhere; leave them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
