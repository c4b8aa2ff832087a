"""Probes of a model in training: every so many steps, and after the last one.

What is read is always the same batch, the run's first, so that rows compare; and every schedule that the phase draws
from. Only the weights in training are read, never their average, and nothing is changed.
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from jaxtyping import Int64

from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.probes.measure import probe
from nutshell.model.probes.trace import eager_twin
from nutshell.train.clock import Spent
from nutshell.train.phases import Phase

# Enough to average over, and little enough that all activations of a deep model fit in memory.
PROBE_TOKENS = 2_048


class Probing:
    """When to probe, with what, and where the rows go.

    Args:
        every: steps from one probe to the next.
        model: what is trained.
        schedules: those that it was built for.
        batch: inputs and targets; of these, whole windows up to PROBE_TOKENS are read.
        on_row: told of each reading, a row of `probes.jsonl`.
        last_step: the step of the last probe that an interrupted run has behind it.
    """

    def __init__(
        self,
        every: int,
        model: LM,
        schedules: Sequence[DepthSchedule],
        batch: tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B T"]],
        on_row: Callable[[dict[str, object]], object],
        *,
        last_step: int = 0,
    ) -> None:
        self._every, self._twin, self._on_row = every, eager_twin(model, schedules), on_row
        rows = max(1, PROBE_TOKENS // batch[0].shape[1])
        self._inputs, self._targets = (torch.from_numpy(part[:rows]) for part in batch)
        self._last_step = last_step

    def is_due(self, spent: Spent, *, at_the_end: bool = False) -> bool:
        """Say whether to probe after a step, or after all of them."""
        return spent.steps > self._last_step and (at_the_end or spent.steps % self._every == 0)

    def read(self, spent: Spent, number: int, phase: Phase) -> None:
        """Probe every schedule of a phase, given with its number."""
        for schedule in phase.schedules:
            reading = probe(self._twin, schedule, self._inputs, self._targets)
            place = {"step": spent.steps, "seconds": spent.seconds, "phase": number}
            self._on_row({**place, **msgspec.to_builtins(reading)})
        self._last_step = spent.steps
