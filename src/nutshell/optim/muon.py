"""Muon: momentum, then the nearest orthogonal matrix as the update.

Source: Jordan et al. 2024 (the Muon write-up and modded-nanogpt). A matrix's gradient g is smoothed, Nesterov-style,
`b <- mu b + g; u = g + mu b`, and u is orthogonalised (newton_schulz.py), its rows brought to one length before if so
wanted (MuonEq-R; shared/spec/sp8192-loop36.md 1.4). The update is scaled by sqrt(max(1, rows/cols)). Matrices of equal
shape are stacked, so that each product is one batched call and the model needs no banks.

Several ranks share the work: each sums, smooths and orthogonalises a part of every stack, and all gather the updates.
While a stack is orthogonalised, the updates of the one before it travel.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nutshell.nn.params import ParamRow
from nutshell.optim.config import MuonConfig
from nutshell.optim.newton_schulz import MARGIN, orthogonalise, quintics
from nutshell.optim.sharded import Pending, gather_parts, sum_parts
from nutshell.ranks import ALONE, Ranks

ROW_NORM_EPS = 1e-7


def equalise_rows(updates: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """Bring every row of every matrix to length 1; rows of nothing stay nothing."""
    return updates / updates.norm(dim=-1, keepdim=True).clamp(min=ROW_NORM_EPS)


class Stack:
    """Matrices of one shape, [R C] each, dealt to the ranks in equal parts; the last parts are padded with zeros.

    Every rank holds all the weights, and the momentum of its own part alone.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], ranks: Ranks) -> None:
        self.matrices, self.ranks = matrices, ranks
        self.part = -(-len(matrices) // ranks.size)
        self.first = self.part * ranks.rank
        self.momentum = torch.zeros(self.part, *self.shape, device=matrices[0].device)

    @property
    def shape(self) -> torch.Size:
        return self.matrices[0].shape

    @property
    def name(self) -> str:
        """How checkpoints call its momentum: number, rows and columns, whatever the number of ranks."""
        return "x".join(map(str, (len(self.matrices), *self.shape)))

    def reached(self) -> list[int]:
        """Number the matrices that have a gradient: on all ranks the same, for all ran the same schedule."""
        return [index for index, matrix in enumerate(self.matrices) if matrix.grad is not None]

    def sum_gradients(self) -> Pending:
        """Start to add the ranks' gradients, [N R C]; this rank gets its part of the sum."""
        nothing = self.momentum.new_zeros(()).expand(self.shape)
        grads = [nothing if matrix.grad is None else matrix.grad for matrix in self.matrices]
        padding = [nothing] * (self.part * self.ranks.size - len(grads))
        return sum_parts(torch.stack(grads + padding), self.ranks)

    def smooth(self, grads: Float[Tensor, "n R C"], momentum: float, own: list[int]) -> Float[Tensor, "m R C"]:
        """Fold the summed gradients of `own`, places in this rank's part, into their momentum; give the updates."""
        if len(own) == self.part:  # almost always, and without a copy
            return grads.add(self.momentum.mul_(momentum).add_(grads), alpha=momentum)
        grads, smoothed = grads[own], momentum * self.momentum[own] + grads[own]
        self.momentum[own] = smoothed
        return grads.add(smoothed, alpha=momentum)

    def gather_momentum(self) -> Float[Tensor, "N R C"]:
        """Give the momentum of all matrices; all ranks must ask. With one rank it is the live buffer."""
        return gather_parts(self.momentum, self.ranks).wait()[: len(self.matrices)]

    def load_momentum(self, whole: Float[Tensor, "N R C"]) -> None:
        """Take this rank's part of the momentum of all matrices."""
        part = whole[self.first : self.first + self.part]
        self.momentum.zero_()[: len(part)].copy_(part)


class Summed(NamedTuple):
    """A stack with its part of the summed gradients, which may be on its way."""

    stack: Stack
    reached: list[int]
    grads: Pending


class Muon:
    """Muon over matrices, stacked by shape.

    Args:
        rows: the matrices, each [R C].
        config: how a gradient becomes a direction.
        lr: learning rate before the curve's multiplier.
        dtype: precision of the Newton-Schulz products, and of the updates that ranks send.
        ranks: the processes that share the work.
    """

    def __init__(
        self, rows: Iterable[ParamRow], config: MuonConfig, *, lr: float, dtype: torch.dtype, ranks: Ranks = ALONE
    ) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for row in rows:
            assert len(row.shape) == 2, f"Muon takes matrices, {row.name} is {row.shape}"
            by_shape[row.shape].append(row.value)
        self.lr, self.dtype, self.ranks = lr, dtype, ranks
        self._row_norm, self._margin = config.row_norm, MARGIN[config.coefficients]
        self._steps = quintics(config.coefficients, config.steps)
        stacks = [Stack(matrices, ranks) for matrices in by_shape.values()]
        # The largest travel first, so that the longest sum overlaps the others.
        self.stacks = sorted(stacks, key=lambda stack: -stack.momentum.numel())

    def sum_gradients(self) -> list[Summed]:
        """Start to add the ranks' gradients of every stack of which a schedule reached something."""
        reached = [(stack, stack.reached()) for stack in self.stacks]
        return [Summed(stack, numbers, stack.sum_gradients()) for stack, numbers in reached if numbers]

    @torch.no_grad()
    def step(
        self, summed: Sequence[Summed], *, lr_scale: float, momentum: float, weight_decay: float
    ) -> Callable[[], None]:
        """Update every matrix that has a gradient; one without is left alone, momentum and all.

        Args:
            summed: what `sum_gradients` started.
            lr_scale: the learning rate's multiplier.
            momentum: how much of the momentum is kept.
            weight_decay: decoupled, `w <- w (1 - lr wd)` before the update.

        Returns:
            What is left to do: the last stack's updates are still on their way.
        """
        lr = self.lr * lr_scale
        land: Callable[[], None] = _nothing
        for stack, reached, grads in summed:
            direction = self._direction(stack, reached, grads.wait(), momentum)
            travelling = gather_parts(direction, self.ranks)
            land()
            land = partial(_apply, stack, reached, travelling, lr=lr, weight_decay=weight_decay)
        return land

    def _direction(
        self, stack: Stack, reached: list[int], grads: Float[Tensor, "n R C"], momentum: float
    ) -> Float[Tensor, "n R C"]:
        """Smooth and orthogonalise this rank's part of a stack; zero where nothing was reached."""
        own = [number - stack.first for number in reached if 0 <= number - stack.first < stack.part]
        if not own:
            return torch.zeros_like(stack.momentum, dtype=self.dtype)
        updates = stack.smooth(grads, momentum, own)
        if self._row_norm:
            updates = equalise_rows(updates)
        found = orthogonalise(updates, self._steps, margin=self._margin, dtype=self.dtype)
        if len(own) == stack.part:
            return found
        directions = torch.zeros_like(stack.momentum, dtype=self.dtype)
        directions[own] = found
        return directions

    def state(self) -> dict[str, Tensor]:
        """Name the momentum of every stack, in full; all ranks must ask."""
        return {stack.name: stack.gather_momentum() for stack in self.stacks}

    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Take back what `state` gave, on however many ranks."""
        for stack in self.stacks:
            stack.load_momentum(flat[stack.name])


def _nothing() -> None:
    """Stand for what is left before the first stack."""


@torch.no_grad()
def _apply(stack: Stack, reached: list[int], directions: Pending, *, lr: float, weight_decay: float) -> None:
    """Decay and move the matrices of a stack that were reached."""
    rows, cols = stack.shape
    whole = directions.wait()
    for number in reached:
        stack.matrices[number].mul_(1.0 - lr * weight_decay)
        stack.matrices[number].add_(whole[number], alpha=-lr * max(1.0, rows / cols) ** 0.5)
