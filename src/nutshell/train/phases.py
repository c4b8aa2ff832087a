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
    """A stretch of training that is computed in one way.

    Attributes:
        until: The progress at which it ends.
        schedules: What its steps draw from.
        batch_size: Windows a step, over all ranks.
        seq_len: Tokens a window.
        quantized: Whether the weights are seen as they will be packed.
    """

    until: float
    schedules: tuple[DepthSchedule, ...]
    batch_size: int
    seq_len: int
    quantized: bool = False

    @property
    def batch_tokens(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def name(self) -> str:
        """How the receipt calls it."""
        return f"phase until {self.until:g}"


def phase_at(progress: float, phases: Sequence[Phase]) -> int:
    """Give the number of the first phase that has not ended, or the last one's."""
    return next((number for number, phase in enumerate(phases) if progress < phase.until), len(phases) - 1)


def draw(phase: Phase, *, seed: int, step: int) -> DepthSchedule:
    """Pick one of a phase's schedules, each as likely as the others."""
    rng = np.random.default_rng([seed, step, _DEPTH_STREAM])
    return phase.schedules[rng.integers(len(phase.schedules))]
