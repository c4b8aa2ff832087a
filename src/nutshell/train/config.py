"""What a recipe says about a training run."""

from typing import Literal

from nutshell.config.struct import Config, kind_of
from nutshell.data.loading import LoaderConfig, RingConfig
from nutshell.model.depth import DepthSchedule
from nutshell.nn.kernels.choose import AttentionName
from nutshell.train.averaging import AverageConfig, AverageName, name_of
from nutshell.train.penalties import PenaltyConfig
from nutshell.train.qat import QatConfig


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
    """What differs until a fraction of the budget: depth schedule, batch, context, or that weights are not quantized.

    `schedules` are several of which each step draws one. What a phase leaves out is as the run ends with it: after the
    last phase the model's own schedule runs, on `train.batch_size` windows of `train.seq_len`, with `train.qat` where
    there is one. A phase of several schedules that include the model's own may last to the end.
    """

    until: float
    schedule: str | None = None
    schedules: tuple[str, ...] | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    qat: Literal[False] | None = None

    def __post_init__(self) -> None:
        said = (self.schedule, self.schedules, self.batch_size, self.seq_len, self.qat)
        if all(value is None for value in said):
            raise ValueError(f"the phase until {self.until} changes nothing: give it a schedule, schedules or a size")
        if self.schedule is not None and self.schedules is not None:
            raise ValueError(f"the phase until {self.until} must have at most one of schedule and schedules")
        for name in ("batch_size", "seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} of the phase until {self.until} must be positive, got {value}")
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
        """The schedules that its steps draw from; none where it runs the model's own."""
        return self.schedules or ((self.schedule,) if self.schedule is not None else ())


class TrainConfig(Config, frozen=True):
    """Budget, batch, phases, averaging, precision and probes.

    `batch_size` windows of `seq_len` tokens make a step, over all ranks; each computes its share `micro_batch_size`
    windows at a time, all at once if not given. `averages` are kept beside the weights, and `packed` says which of
    them, or `last`, is packed: the first listed unless given; all are scored. `qat` shows the weights as they will be
    packed, `penalties` are functions of the weights that join the objective. `label_smoothing` and `z_loss` are terms
    of the objective alone (train/loss.py); what is reported stays the plain cross-entropy. `compute_dtype`, `attention`
    and `compile` say how a step is computed, auto what is fastest here (docs/compute.md): bf16 where the processor has
    instructions for it; the kernel that a rule or a race finds; blocks compiled on a CPU, whole schedules on a GPU, for
    half a minute or more that pays from some hundred steps on. `probe_every` reads the diagnostics of docs/probes.md
    every so many steps; the clock stands still meanwhile.
    """

    budget: BudgetConfig
    batch_size: int
    seq_len: int
    loader: LoaderConfig = RingConfig()
    micro_batch_size: int | None = None
    phases: tuple[PhaseConfig, ...] = ()
    averages: tuple[AverageConfig, ...] = ()
    packed: AverageName | None = None
    qat: QatConfig | None = None
    penalties: tuple[PenaltyConfig, ...] = ()
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    compute_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    attention: AttentionName | Literal["auto"] = "auto"
    compile: Literal["auto", "never", "blocks", "schedules"] = "auto"
    checkpoint_seconds: float = 60.0
    probe_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "seq_len", "micro_batch_size", "checkpoint_seconds", "probe_every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.z_loss < 0.0:
            raise ValueError(f"z_loss must be at least 0, got {self.z_loss}")
        names = [name_of(average) for average in self.averages]
        if len(names) != len(set(names)):
            raise ValueError(f"averages must be of different kinds, got {names}")
        if self.packed is not None and self.packed not in ("last", *names):
            raise ValueError(f"packed '{self.packed}' is none of the averages; there are {['last', *names]}")
        if self.packed is not None and not names:
            raise ValueError(f"packed '{self.packed}' has no effect without averages")
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)) or any(not 0.0 < end <= 1.0 for end in ends):
            raise ValueError(f"phases must end at rising fractions between 0 and 1, got {ends}")
        if self.qat is None and any(phase.qat is False for phase in self.phases):
            raise ValueError("qat = false of a phase has no effect: train.qat is not set")
        kinds = [kind_of(penalty) for penalty in self.penalties]
        if len(kinds) != len(set(kinds)):
            raise ValueError(f"penalties must be of different kinds, got {kinds}")
        self._check_last_phase()

    def _check_last_phase(self) -> None:
        """Refuse a phase to the end that makes a setting of the run's own one that never acts."""
        if not self.phases or self.phases[-1].until < 1.0:
            return
        last = self.phases[-1]
        if last.schedules is None:
            raise ValueError(
                "a phase must end before 1 unless it draws from several schedules, for the model's own schedule runs "
                f"last; got '{last.schedule}' until 1"
            )
        if (last.batch_size, last.seq_len, last.qat) != (None, None, None):
            raise ValueError("a phase until 1 changes schedules alone: batch_size, seq_len and qat are the run's own")

    @property
    def packed_name(self) -> AverageName:
        """Which weights are packed."""
        return self.packed or (name_of(self.averages[0]) if self.averages else "last")
