"""Who optimizes what: roles to optimizers, every parameter claimed exactly once."""

import torch
from torch import Tensor

from nutshell.nn.params import ParamRow, ParamTable, Role
from nutshell.optim.config import OptimConfig
from nutshell.optim.curves import ramp, warmdown
from nutshell.optim.muon import Muon
from nutshell.ranks import ALONE, Ranks

MATRIX_ROLES: tuple[Role, ...] = ("matrix",)
EMBED_ROLES: tuple[Role, ...] = ("embedding", "head")
SCALAR_ROLES: tuple[Role, ...] = ("gate", "gain", "scale")


class Optimizers:
    """Muon and AdamW over one model, stepped together along the run's progress.

    Args:
        table: the model's parameters.
        config: rates and constants.
        dtype: precision of Muon's products.
    """

    def __init__(
        self, table: ParamTable, config: OptimConfig, *, dtype: torch.dtype, ranks: Ranks = ALONE
    ) -> None:
        matrices, embeddings, scalars = (table.with_role(*roles) for roles in (MATRIX_ROLES, EMBED_ROLES, SCALAR_ROLES))
        _assert_exact_cover(table, [*matrices, *embeddings, *scalars])
        self.config = config
        self.parameters = [row.value for row in table]
        self._muon = Muon(
            matrices,
            lr=config.matrix_lr,
            weight_decay=config.matrix_weight_decay,
            steps=config.newton_schulz_steps,
            dtype=dtype,
        )
        self._names = {row.value: row.name for row in (*embeddings, *scalars)}
        self._adamw = torch.optim.AdamW(
            [
                _group(embeddings, config.embed_lr, config.embed_weight_decay),
                _group(scalars, config.scalar_lr, config.scalar_weight_decay),
            ],
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            fused=True,
        )

    def step(self, progress: float) -> dict[str, float]:
        """Clip, update every parameter, clear the gradients; return the rates used and the gradient's norm."""
        config = self.config
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip or float("inf"))
        lr_scale = warmdown(progress, frac=config.warmdown_frac, floor=config.warmdown_floor)
        momentum = ramp(progress, start=config.momentum_start, stop=config.momentum, frac=config.momentum_warmup_frac)
        self._muon.step(lr_scale=lr_scale, momentum=momentum)
        for group in self._adamw.param_groups:
            group["lr"] = group["base_lr"] * lr_scale
        self._adamw.step()
        self.clear()
        return {"lr": lr_scale, "momentum": momentum, "grad_norm": norm.item()}

    def clear(self) -> None:
        """Forget the gradients. None, not zero: what a schedule does not reach is neither moved nor decayed."""
        for value in self.parameters:
            value.grad = None

    def state(self) -> dict[str, Tensor]:
        """Flatten the optimizer state to named tensors, for a checkpoint."""
        flat = {f"muon.{name}": buffer for name, buffer in self._muon.state().items()}
        for value, name in self._names.items():
            entries = self._adamw.state.get(value, {})
            flat |= {f"adamw.{name}.{key}": tensor for key, tensor in entries.items()}
        return flat

    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, buffer in self._muon.state().items():
            buffer.copy_(flat[f"muon.{name}"])
        for value, name in self._names.items():
            prefix = f"adamw.{name}."
            entries = {
                key.removeprefix(prefix): tensor.clone() for key, tensor in flat.items() if key.startswith(prefix)
            }
            if entries:
                self._adamw.state[value] = entries


def _group(rows: list[ParamRow], lr: float, weight_decay: float) -> dict:
    return {"params": [row.value for row in rows], "lr": lr, "base_lr": lr, "weight_decay": weight_decay}


def _assert_exact_cover(table: ParamTable, claimed: list[ParamRow]) -> None:
    names = [row.name for row in claimed]
    assert len(names) == len(set(names)), "a parameter has two optimizers"
    assert set(names) == {row.name for row in table}, "a parameter has no optimizer"
