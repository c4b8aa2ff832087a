"""What changes during a run: weights, optimizers, average, and what has been spent; to and from a checkpoint."""

import torch
from torch import Tensor

from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.optim.config import OptimConfig
from nutshell.optim.roles import Optimizers
from nutshell.train.averaging import Averaged
from nutshell.train.checkpoint import Checkpoint, Identity
from nutshell.train.clock import Spent
from nutshell.train.config import TrainConfig


class TrainState:
    """A model in training."""

    def __init__(self, model: LM, train: TrainConfig, optim: OptimConfig, *, dtype: torch.dtype) -> None:
        self.model = model
        table = ParamTable.of(model)
        self.weights = {row.name: row.value for row in table}
        self.optimizers = Optimizers(table, optim, dtype=dtype)
        self.average = Averaged(table, train.ema_decay) if train.ema_decay is not None else None
        self.spent = Spent()

    def final_weights(self) -> dict[str, Tensor]:
        """Give the weights to pack: the average where there is one."""
        return self.average.state() if self.average else {name: value.detach() for name, value in self.weights.items()}

    def checkpoint(self, identity: Identity) -> Checkpoint:
        """Name every tensor of the state; the tensors are live, write before the next step."""
        tensors = {f"weights.{name}": value.detach() for name, value in self.weights.items()}
        tensors |= {f"optim.{name}": value for name, value in self.optimizers.state().items()}
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
        return Checkpoint(identity, self.spent, tensors)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint of the same recipe."""
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
