"""An exponential moving average of the weights, in fp32 whatever the compute precision.

`a <- a + (1 - d) (w - a)` after every step, from the initial weights on. So that the average soon forgets those, the
decay in force after n steps is min(d, (1 + n) / (10 + n)) (the warm-up of TensorFlow's ExponentialMovingAverage).
"""

import torch
from torch import Tensor

from nutshell.nn.params import ParamTable


class Averaged:
    """Averaged copies of all parameters, by name."""

    def __init__(self, table: ParamTable, decay: float) -> None:
        self.decay = decay
        self._live = [row.value for row in table]
        self._copies = [row.value.detach().clone() for row in table]
        self._names = [row.name for row in table]

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Fold in the weights after step number `num_steps`, counted from 1."""
        decay = min(self.decay, (1 + num_steps) / (10 + num_steps))
        for copy, live in zip(self._copies, self._live, strict=True):
            copy.lerp_(live, 1.0 - decay)

    def state(self) -> dict[str, Tensor]:
        """Name the live averages, to read or to write in place."""
        return dict(zip(self._names, self._copies, strict=True))
