"""What a recipe says about a training run."""

from typing import Literal

from nutshell.config.struct import Config
from nutshell.model.depth import DepthSchedule


class BudgetConfig(Config, frozen=True):
    """When the run ends: exactly one of wall-clock seconds, optimizer steps, or training tokens."""

    seconds: float | None = None
    steps: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.seconds, self.steps, self.tokens) if value is not None]
        if len(given) != 1:
            raise ValueError(f"a budget is exactly one of seconds, steps or tokens, got {len(given)} of them")
        if given[0] <= 0:
            raise ValueError(f"a budget must be positive, got {given[0]}")


class PhaseConfig(Config, frozen=True):
    """Another depth schedule until a fraction of the budget, or several, of which each step draws one.

    After the last phase the model's own schedule runs. A phase of several that include it may last to the end.
    """

    until: float
    schedule: str | None = None
    schedules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.schedule is None) == (self.schedules is None):
            raise ValueError(f"the phase until {self.until} must have exactly one of schedule and schedules")
        if self.schedules is None:
            return
        different = {DepthSchedule.parse(text).visits for text in self.schedules}
        if len(different) < max(2, len(self.schedules)):
            raise ValueError(
                f"schedules of the phase until {self.until} must be two or more that differ, got "
                f"{list(self.schedules)}; one alone is written as schedule"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """The schedules that its steps draw from."""
        return self.schedules or (str(self.schedule),)


class TrainConfig(Config, frozen=True):
    """Budget, batch, phases, averaging, precision and probes.

    `batch_size` sequences of `seq_len` tokens make a step. `ema_decay` averages the weights in fp32 after every step;
    the average is what is packed. `label_smoothing` and `z_loss` are terms of the objective alone (train/loss.py); what
    is reported stays the plain cross-entropy. `compute_dtype` auto is bf16 where the processor has instructions for it,
    else fp32.
    `compile` auto compiles where there is a C++ compiler: half a minute that pays from some hundred steps on.
    `probe_every` reads the diagnostics of docs/probes.md every so many steps; the clock stands still meanwhile.
    """

    budget: BudgetConfig
    batch_size: int
    seq_len: int
    phases: tuple[PhaseConfig, ...] = ()
    ema_decay: float | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    compute_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    compile: Literal["auto", "never"] = "auto"
    checkpoint_seconds: float = 60.0
    probe_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "checkpoint_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.probe_every is not None and self.probe_every < 1:
            raise ValueError(f"probe_every must be at least 1, got {self.probe_every}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie between 0 and 1, got {self.ema_decay}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.z_loss < 0.0:
            raise ValueError(f"z_loss must be at least 0, got {self.z_loss}")
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)) or any(not 0.0 < end <= 1.0 for end in ends):
            raise ValueError(f"phases must end at rising fractions between 0 and 1, got {ends}")
        if any(phase.until == 1.0 and phase.schedules is None for phase in self.phases):
            raise ValueError(
                "a phase of one schedule must end before 1, for the model's own schedule runs last; got "
                f"'{self.phases[-1].schedule}' until 1"
            )

    @property
    def batch_tokens(self) -> int:
        return self.batch_size * self.seq_len
