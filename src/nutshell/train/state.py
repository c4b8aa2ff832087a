"""What changes during a run: weights, optimizers, average, and what has been spent; to and from a checkpoint."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.optim.config import OptimConfig
from nutshell.optim.roles import Optimizers
from nutshell.train.averaging import Averaged
from nutshell.train.checkpoint import Change, Checkpoint, Conditions, Identity
from nutshell.train.clock import Spent
from nutshell.train.config import TrainConfig


class TrainState:
    """A model in training.

    Args:
        model: the model, its weights initialised.
        train: the run's settings.
        optim: the optimizers' settings.
        dtype: precision in which a step is computed.
        conditions: what else decides how it is rounded, by name; checkpoints carry it.
    """

    def __init__(
        self,
        model: LM,
        train: TrainConfig,
        optim: OptimConfig,
        *,
        dtype: torch.dtype,
        conditions: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        table = ParamTable.of(model)
        self.weights = {row.name: row.value for row in table}
        self.optimizers = Optimizers(table, optim, dtype=dtype)
        self.average = Averaged(table, train.ema_decay) if train.ema_decay is not None else None
        self.spent = Spent()
        self.conditions = Conditions(dict(conditions or {}))

    def final_weights(self) -> dict[str, Tensor]:
        """Give the weights to pack: the average where there is one."""
        return self.average.state() if self.average else {name: value.detach() for name, value in self.weights.items()}

    def checkpoint(self, identity: Identity) -> Checkpoint:
        """Name every tensor of the state; the tensors are live, write before the next step."""
        tensors = {f"weights.{name}": value.detach() for name, value in self.weights.items()}
        tensors |= {f"optim.{name}": value for name, value in self.optimizers.state().items()}
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
        return Checkpoint(identity, self.spent, self.conditions, tensors)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> tuple[Change, ...]:
        """Take up a checkpoint of the same recipe; return which conditions are others than they were."""
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optim": {}, "average": {}}
        for name, value in checkpoint.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        for name, value in self.weights.items():
            value.copy_(parts["weights"][name])
        for name, value in (self.average.state() if self.average else {}).items():
            value.copy_(parts["average"][name])
        self.optimizers.load_state(parts["optim"])
        self.spent = checkpoint.spent
        self.conditions = checkpoint.conditions.continued(self.conditions.now, after_step=self.spent.steps)
        return self.conditions.changes[len(checkpoint.conditions.changes) :]
