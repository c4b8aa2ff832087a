"""The processes that train or calibrate one model together: which of them this is, and what they tell one another.

`torchrun` starts them and says so in the environment; without it there is one, and nothing here communicates.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

# A rank that says nothing for this long is taken for dead; compiling a deep model takes a few minutes.
SILENCE = timedelta(minutes=10)
# How gloo, or the system through it, says that a peer does not answer; it has no class of its own for that.
_SILENT = (
    *("Connection closed by peer", "Connection reset by peer", "Connection refused", "Connection timed out"),
    *("Broken pipe", "Socket closed", "Pair is not connected"),
    *("Application timeout caused pair closure", "Timed out waiting"),
)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size` of them; `device` is where tensors must be that they exchange."""

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, value: float) -> float:
        """Give every rank the first one's value."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return shared.item()

    def any(self, flag: bool) -> bool:  # the question's own answer
        """Say whether any rank says so."""
        if self.size == 1:
            return flag
        shared = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return bool(shared.item())

    def add(self, value: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def add_up(self, values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Sum an array over the ranks."""
        return values if self.size == 1 else self.add(torch.from_numpy(values).to(self.device)).cpu().numpy()

    def share(self, value: T) -> T:
        """Give every rank what the first one has."""
        return value if self.size == 1 else self._sent(value, source=0)

    def in_turn(self, held: Mapping[T, Tensor] | None) -> Iterator[Mapping[T, Tensor]]:
        """Give every rank what each of them holds, in the order of the ranks; nothing of one that holds None."""
        if self.size == 1:
            yield from [] if held is None else [held]
            return
        for source in range(self.size):
            mine = None if held is None or source != self.rank else {key: held[key].contiguous() for key in held}
            own_forms = None if mine is None else {key: (value.shape, value.dtype) for key, value in mine.items()}
            forms = self._sent(own_forms, source=source)
            if forms is None:
                continue
            values = mine or {
                key: torch.empty(shape, dtype=dtype, device=self.device) for key, (shape, dtype) in forms.items()
            }
            for value in values.values():
                dist.broadcast(value, src=source)
            yield values

    def _sent(self, value: T, *, source: int) -> T:
        sent = [value]
        dist.broadcast_object_list(sent, src=source, device=self.device)
        return sent[0]

    def same(self, text: str) -> bool:
        """Say whether all ranks hold the same text."""
        if self.size == 1:
            return True
        held: list[str | None] = [None] * self.size
        dist.all_gather_object(held, text)
        return len(set(held)) == 1


ALONE = Ranks()


def rank_here() -> int:
    """Give the number that the environment gives this process; 0 where it was started alone."""
    return int(os.environ.get("RANK", "0"))


def num_ranks() -> int:
    """Give the number of processes that the environment names."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def environment_alone() -> dict[str, str]:
    """Give the environment for a process that is started from here and has no part in the training."""
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in own}


def is_silence(error: RuntimeError) -> bool:
    """Say whether an error is that another rank does not answer."""
    return isinstance(error, dist.DistError) or any(phrase in str(error) for phrase in _SILENT)


@contextmanager
def joined_ranks(device: torch.device, *, stage: str = "train", silence: timedelta = SILENCE) -> Iterator[Ranks]:
    """Join the processes that the environment names, over NCCL on GPUs and gloo elsewhere; leave them at the end.

    Args:
        device: where tensors are that they exchange.
        stage: what they do together. A process may join for one stage after another, each of its own name: what was
            said at the meeting for one is not taken for the next's.
        silence: how long a rank may say nothing.
    """
    if num_ranks() == 1:
        yield ALONE
        return
    store, rank, size = next(rendezvous("env://", timeout=silence))
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(stage, store),
        rank=rank,
        world_size=size,
        timeout=silence,
    )
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
