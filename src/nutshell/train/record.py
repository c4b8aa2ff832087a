"""What a run notes about itself as it goes, for its receipt: when each feature was active, and its worst moments.

A checkpoint carries it, so that the receipt of a resumed run is that of the whole.
"""

import math

import msgspec

# A loss this many mean absolute deviations above its recent mean is a spike, once enough steps have been seen. Losses
# of single batches scatter by about one deviation; text of another kind reaches three or four.
SPIKE_DEVIATIONS = 8.0
SPIKE_AFTER_STEPS = 30
# Losses that scatter by less than this fraction of their mean are held to scatter by it: rounding is no spike.
LEAST_DEVIATION = 1e-3
MEMORY = 0.95
MOST_SPIKES = 20


class Activity(msgspec.Struct):
    """From which step to which a feature acted, and what it took of the budget."""

    first_step: int
    last_step: int
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Extreme(msgspec.Struct):
    """A largest value and the step that had it."""

    value: float = 0.0
    step: int = 0

    def meet(self, value: float, step: int) -> None:
        if value > self.value:
            self.value, self.step = value, step


class Spike(msgspec.Struct, frozen=True):
    """A step whose loss was far above what the steps before it had."""

    step: int
    loss: float
    expected: float


class LossWatch(msgspec.Struct):
    """The recent mean of the loss and of its absolute deviations, both exponential."""

    mean: float = 0.0
    deviation: float = 0.0
    steps: int = 0

    def meet(self, loss: float, step: int) -> Spike | None:
        """Take a step's loss in; give the spike that it is, if it is one."""
        self.steps += 1
        keep = min(MEMORY, 1.0 - 1.0 / self.steps)  # a plain mean at first
        off, expected = loss - self.mean, self.mean
        usual = max(self.deviation, LEAST_DEVIATION * abs(self.mean))
        is_spike = self.steps > SPIKE_AFTER_STEPS and off > SPIKE_DEVIATIONS * usual
        self.mean += (1.0 - keep) * off
        self.deviation = keep * self.deviation + (1.0 - keep) * abs(off if self.steps > 1 else 0.0)
        return Spike(step, loss, expected) if is_spike else None


class Session(msgspec.Struct):
    """One process's part in a run: the first one's, or of one that resumed it; up to its last checkpoint.

    Attributes:
        after_step: the step after which it began.
        seconds: by name, what it took beside the steps.
        recompiled: graphs compiled after the clock had started.
        peak_memory_bytes: by what was watched; None where the system does not tell.
        checkpoints: written so far, before the one that holds this.
        checkpoint_seconds: what they took.
        reads: tokens read of each side of the split, by what for; those of the first process.
    """

    after_step: int = 0
    seconds: dict[str, float] = {}
    recompiled: int = 0
    peak_memory_bytes: dict[str, int | None] = {}
    checkpoints: int = 0
    checkpoint_seconds: float = 0.0
    reads: dict[str, dict[str, int]] = {}


class Record(msgspec.Struct):
    """The notes of one run.

    Attributes:
        features: by name, whatever is scheduled: phases, averages.
        grad_norm: the largest norm of a whole gradient, before clipping.
        step_seconds: the slowest step.
        loss: what is usual now.
        spikes: the first of them, in order.
        num_spikes: all of them.
        sessions: the processes that worked on the run, in order.
    """

    features: dict[str, Activity] = {}
    grad_norm: Extreme = msgspec.field(default_factory=Extreme)
    step_seconds: Extreme = msgspec.field(default_factory=Extreme)
    loss: LossWatch = msgspec.field(default_factory=LossWatch)
    spikes: list[Spike] = []
    num_spikes: int = 0
    sessions: list[Session] = msgspec.field(default_factory=lambda: [Session()])

    def note_active(self, name: str, step: int, *, tokens: int = 0, seconds: float = 0.0) -> None:
        """Note that a feature acted in a step."""
        activity = self.features.setdefault(name, Activity(first_step=step, last_step=step))
        activity.last_step = step
        activity.steps += 1
        activity.tokens += tokens
        activity.seconds += seconds

    def note_step(self, step: int, *, loss: float, grad_norm: float, seconds: float) -> Spike | None:
        """Note a step's numbers; give the spike that its loss is, if it is one."""
        self.grad_norm.meet(grad_norm if math.isfinite(grad_norm) else 0.0, step)
        self.step_seconds.meet(seconds, step)
        spike = self.loss.meet(loss, step)
        if spike:
            self.num_spikes += 1
            if len(self.spikes) < MOST_SPIKES:
                self.spikes.append(spike)
        return spike

    def note_saved(self, seconds: float) -> None:
        """Note that this session has written a checkpoint."""
        self.sessions[-1].checkpoints += 1
        self.sessions[-1].checkpoint_seconds += seconds

    def never_active(self, names: list[str]) -> list[str]:
        """Give those features that no step had."""
        return [name for name in names if name not in self.features]
