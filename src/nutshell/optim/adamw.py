"""AdamW over groups of parameters, each with a rate and a decay of its own; torch's, fused.

Source: Loshchilov & Hutter 2019; decay is decoupled and follows the scheduled rate, `w <- (1 - lr wd) w`. Several ranks
each update all of these parameters: they are small, and equal gradients make equal updates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nutshell.config.curve import Curve, value_at
from nutshell.nn.params import ParamRow
from nutshell.optim.sharded import Pending, sum_whole
from nutshell.ranks import ALONE, Ranks


class Group(NamedTuple):
    """Parameters that are trained alike."""

    rows: Sequence[ParamRow]
    lr: float
    weight_decay: Curve


class AdamW:
    """AdamW over some groups.

    Args:
        groups: the parameters; a group may be empty.
        betas: how much of the averages of gradient and squared gradient is kept.
        eps: added to the root of the latter.
        ranks: the processes whose gradients are added.
    """

    def __init__(
        self, groups: Sequence[Group], *, betas: tuple[float, float], eps: float, ranks: Ranks = ALONE
    ) -> None:
        self._names = {row.value: row.name for group in groups for row in group.rows}
        self._groups = [group for group in groups if group.rows]
        tables = [{"params": [row.value for row in group.rows], "lr": group.lr} for group in self._groups]
        self._adamw = torch.optim.AdamW(tables, betas=betas, eps=eps, fused=True) if tables else None
        self._ranks = ranks

    def sum_gradients(self) -> "SummedFlat":
        """Start to add the ranks' gradients, all in one flat tensor."""
        values = [value for value in self._names if value.grad is not None]
        grads = [value.grad.flatten() for value in values if value.grad is not None]
        if self._ranks.size == 1 or not grads:
            return SummedFlat(values, None)
        return SummedFlat(values, sum_whole(torch.cat(grads), self._ranks))

    def step(self, progress: float, *, lr_scale: float) -> None:
        """Update every parameter that has a gradient; one without is left alone, averages and all."""
        if self._adamw is None:
            return
        for group, table in zip(self._groups, self._adamw.param_groups, strict=True):
            table["lr"] = group.lr * lr_scale
            table["weight_decay"] = value_at(group.weight_decay, progress)
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        """Name the averages and the count of steps of every parameter that was ever updated."""
        if self._adamw is None:
            return {}
        return {
            f"{name}.{key}": tensor
            for value, name in self._names.items()
            for key, tensor in self._adamw.state.get(value, {}).items()
        }

    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for value, name in self._names.items():
            prefix = f"{name}."
            found = {key.removeprefix(prefix): tensor for key, tensor in flat.items() if key.startswith(prefix)}
            if found and self._adamw is not None:
                self._adamw.state[value] = {key: tensor.to(value.device, copy=True) for key, tensor in found.items()}


class SummedFlat(NamedTuple):
    """Parameters whose gradients are added among the ranks, and the flat sum; None with one rank, where it is there."""

    values: list[nn.Parameter]
    flat: Pending | None

    def wait(self) -> list[Tensor]:
        """Put the sums in place; give them."""
        if self.flat is not None:
            parts = self.flat.wait().split([value.numel() for value in self.values])
            for value, part in zip(self.values, parts, strict=True):
                value.grad = part.view_as(value)
        return [value.grad for value in self.values if value.grad is not None]
