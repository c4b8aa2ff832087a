"""Who optimizes what: roles to optimizers, every parameter claimed exactly once."""

import math

import torch
from torch import Tensor

from nutshell.config.curve import value_at
from nutshell.errors import RecipeError, RunError
from nutshell.nn.params import ParamRow, ParamTable, Role
from nutshell.optim.adamw import AdamW, Group
from nutshell.optim.clipping import clip, global_norm
from nutshell.optim.config import OptimConfig
from nutshell.optim.muon import Muon
from nutshell.optim.sharded import smallest
from nutshell.ranks import ALONE, Ranks

MATRIX_ROLES: tuple[Role, ...] = ("matrix",)
PROJECTION_ROLES: tuple[Role, ...] = ("projection",)
EMBED_ROLES: tuple[Role, ...] = ("embedding", "head")
SCALAR_ROLES: tuple[Role, ...] = ("gate", "gain", "scale")


class Optimizers:
    """Muon and AdamW over one model, stepped together along the run's progress.

    Args:
        table: the model's parameters.
        config: rates and constants.
        dtype: precision of Muon's products.
        ranks: the processes that train the model, each with a share of the gradient.

    Raises:
        RecipeError: `projections` names an optimizer, and the model has none of them.
    """

    def __init__(self, table: ParamTable, config: OptimConfig, *, dtype: torch.dtype, ranks: Ranks = ALONE) -> None:
        matrices, embeddings, scalars = _claims(table, config)
        self.config, self.ranks = config, ranks
        self.names = {row.value: row.name for row in table}
        self._muon = Muon(matrices, config.muon, lr=config.matrix_lr, dtype=dtype, ranks=ranks)
        self._adamw = AdamW(
            [
                Group(embeddings, config.embed_lr, config.embed_weight_decay),
                Group(scalars, config.scalar_lr, config.scalar_weight_decay),
            ],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            ranks=ranks,
        )

    def step(self, progress: float) -> dict[str, float]:
        """Add the ranks' gradients, clip, update every parameter, clear the gradients.

        Each rank's gradients are its share: their sum is that of the whole batch. All sums are started before the first
        is awaited; the last updates of Muon travel while AdamW computes.

        Returns:
            The learning rate's multiplier, the momentum, and the gradient's norm before clipping.

        Raises:
            RunError: the gradient is not finite, on any rank; no weight is changed.
        """
        config = self.config
        lr_scale, momentum = value_at(config.lr_curve, progress), value_at(config.momentum, progress)
        summed, flat = self._muon.sum_gradients(), self._adamw.sum_gradients()
        own, common = [part.grads.wait() for part in summed], flat.wait()
        norm = global_norm(own, common, self.ranks)
        if not math.isfinite(norm):
            raise RunError(f"{self._culprit()} (norm {norm}); lower the learning rates")
        clip([*own, *common], norm, config.grad_clip)
        decay = value_at(config.matrix_weight_decay, progress)
        land = self._muon.step(summed, lr_scale=lr_scale, momentum=momentum, weight_decay=decay)
        self._adamw.step(progress, lr_scale=lr_scale)
        land()
        self.clear()
        return {"lr": lr_scale, "momentum": momentum, "grad_norm": norm}

    def clear(self) -> None:
        """Forget the gradients. None, not zero: what a schedule does not reach is neither moved nor decayed."""
        for value in self.names:
            value.grad = None

    def state(self) -> dict[str, Tensor]:
        """Flatten the whole state to named tensors, for a checkpoint, whatever the number of ranks; all must ask."""
        muon = {f"muon.{name}": tensor for name, tensor in self._muon.state().items()}
        return muon | {f"adamw.{name}": tensor for name, tensor in self._adamw.state().items()}

    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Take back what `state` gave, on however many ranks."""
        self._muon.load_state(_under("muon.", flat))
        self._adamw.load_state(_under("adamw.", flat))

    def _culprit(self) -> str:
        """Name the first parameter whose gradient is not finite on some rank."""
        names = list(self.names.values())
        broken = (
            number
            for number, value in enumerate(self.names)
            if value.grad is not None and not value.grad.isfinite().all()
        )
        first = smallest(next(broken, len(names)), self.ranks)
        return f"the gradient of {names[first]} is not finite" if first < len(names) else "the gradient overflows"


def _claims(table: ParamTable, config: OptimConfig) -> tuple[list[ParamRow], list[ParamRow], list[ParamRow]]:
    """Give Muon's matrices, AdamW's embeddings and AdamW's scalars."""
    projections = table.with_role(*PROJECTION_ROLES)
    by_adamw = config.projections == "adamw"
    if by_adamw and not projections:
        raise RecipeError("optim.projections = 'adamw' has no effect: the model has no projection outside its blocks")
    matrices = table.with_role(*MATRIX_ROLES) + ([] if by_adamw else projections)
    embeddings = table.with_role(*EMBED_ROLES)
    scalars = table.with_role(*SCALAR_ROLES) + (projections if by_adamw else [])
    _assert_exact_cover(table, [*matrices, *embeddings, *scalars])
    return matrices, embeddings, scalars


def _under(prefix: str, flat: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in flat.items() if name.startswith(prefix)}


def _assert_exact_cover(table: ParamTable, claimed: list[ParamRow]) -> None:
    names = [row.name for row in claimed]
    assert len(names) == len(set(names)), "a parameter has two optimizers"
    assert set(names) == {row.name for row in table}, "a parameter has no optimizer"
