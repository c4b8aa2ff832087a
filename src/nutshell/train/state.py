"""What changes during a run: weights, optimizers, averages, what was spent and noted; to and from a checkpoint."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.optim.config import OptimConfig
from nutshell.optim.roles import Optimizers
from nutshell.ranks import ALONE, Ranks
from nutshell.train.averaging import Average, AverageName, name_of
from nutshell.train.checkpoint import Change, Checkpoint, Conditions, Identity
from nutshell.train.clock import Spent
from nutshell.train.config import TrainConfig
from nutshell.train.record import Record


class TrainState:
    """A model in training.

    Args:
        model: the model, its weights initialised.
        train: the run's settings.
        optim: the optimizers' settings.
        dtype: precision in which a step is computed.
        conditions: what else decides how it is rounded, by name; checkpoints carry it.
        ranks: the processes that train it.
        after_step: told the number of each step, counted from 0, whose phase sees weights quantized; says whether it
            quantized them. None where they were seen so in the step itself.
    """

    def __init__(
        self,
        model: LM,
        train: TrainConfig,
        optim: OptimConfig,
        *,
        dtype: torch.dtype,
        conditions: Mapping[str, str] | None = None,
        ranks: Ranks = ALONE,
        after_step: Callable[[int], bool] | None = None,
    ) -> None:
        self.model = model
        self.table = ParamTable.of(model)
        self.weights = {row.name: row.value for row in self.table}
        self.optimizers = Optimizers(self.table, optim, dtype=dtype, ranks=ranks)
        self.averages: dict[AverageName, Average] = {
            name_of(config): config.build(self.table) for config in train.averages
        }
        self.after_step = after_step
        self.spent = Spent()
        self.record = Record()
        self.conditions = Conditions(dict(conditions or {}))

    def first_not_finite(self) -> str | None:
        """Name the first weight with a value that is not finite."""
        return next((name for name, weight in self.weights.items() if not weight.isfinite().all()), None)

    def average(self, progress: float) -> list[str]:
        """Fold the weights into the averages after a step; name those that took them."""
        steps = self.spent.steps
        return [name for name, average in self.averages.items() if average.update(num_steps=steps, progress=progress)]

    def final_weights(self) -> dict[AverageName, dict[str, Tensor]]:
        """Give the weights that may be packed: those of the last step, and every average that has any."""
        found: dict[AverageName, dict[str, Tensor]] = {
            "last": {name: value.detach() for name, value in self.weights.items()}
        }
        for name, average in self.averages.items():
            if average.count:  # else they are those of before the first step
                found[name] = average.weights()
        return found

    def checkpoint(self, identity: Identity) -> Checkpoint:
        """Name every tensor of the state; the tensors are live, write before the next step. All ranks must ask."""
        tensors = {f"weights.{name}": value.detach() for name, value in self.weights.items()}
        tensors |= {f"optim.{name}": value for name, value in self.optimizers.state().items()}
        tensors |= self._average_state()
        return Checkpoint(identity, self.spent, self.record, self.conditions, tensors)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> tuple[Change, ...]:
        """Take up a checkpoint of the same recipe; return which conditions are others than they were."""
        tensors = checkpoint.tensors
        for name, value in self.weights.items():
            value.copy_(tensors[f"weights.{name}"])
        for name, value in self._average_state().items():
            value.copy_(tensors[name])
        prefix = "optim."
        self.optimizers.load_state(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        )
        self.spent, self.record = checkpoint.spent, checkpoint.record
        self.conditions = checkpoint.conditions.continued(self.conditions.now, after_step=self.spent.steps)
        return self.conditions.changes[len(checkpoint.conditions.changes) :]

    def _average_state(self) -> dict[str, Tensor]:
        return {
            f"average.{kind}.{name}": value
            for kind, average in self.averages.items()
            for name, value in average.state().items()
        }
