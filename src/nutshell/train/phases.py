"""Which depth schedule a step runs: its phase by progress, and within the phase a draw by seed and step.

Neither has a state, so a resumed run draws what it would have drawn.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nutshell.model.depth import DepthSchedule

# Keeps the draws apart from those of the batches, which have the same seed.
_DEPTH_STREAM = 1


class Phase(NamedTuple):
    """A stretch of training: the progress at which it ends, and the schedules that its steps draw from."""

    until: float
    schedules: tuple[DepthSchedule, ...]


def phase_at(progress: float, phases: Sequence[Phase]) -> int:
    """Give the number of the first phase that has not ended, or the last one's."""
    return next((number for number, phase in enumerate(phases) if progress < phase.until), len(phases) - 1)


def draw(phase: Phase, *, seed: int, step: int) -> DepthSchedule:
    """Pick one of a phase's schedules, each as likely as the others."""
    rng = np.random.default_rng([seed, step, _DEPTH_STREAM])
    return phase.schedules[rng.integers(len(phase.schedules))]
