"""Averages of the weights over a training, in fp32 whatever the compute precision: exponential, or over snapshots.

An exponential average forgets, `a <- a + (1 - d) (w - a)` after every step, from the initial weights on. So that it
soon forgets those, the decay in force after n steps is min(d, (1 + n) / (10 + n)) (the warm-up of TensorFlow's
ExponentialMovingAverage). A stochastic weight average (Izmailov et al. 2018, arXiv:1803.05407) is the plain mean of
snapshots from a point of the run on.
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from nutshell.config.struct import Kind
from nutshell.nn.params import ParamTable

# Of these the recipe says which is packed; `last` are the weights that training ended with.
AverageName = Literal["last", "ema", "swa"]
# An average over more of the run than this lags behind it: openai/parameter-golf 1726 lost 0.04 to 0.16 bpb to an
# average of 286 steps in a run of 540 (shared/spec/sp8192-loop36.md 4.4).
LONG_WINDOW = 0.2


class EmaConfig(Kind, frozen=True, kw_only=True, tag="ema"):
    """The decay of an exponential average, by step."""

    decay: float

    def __post_init__(self) -> None:
        if not 0.0 < self.decay < 1.0:
            raise ValueError(f"decay must lie between 0 and 1, got {self.decay}")

    def build(self, table: ParamTable) -> "Average":
        return Ema(table, self)


class SwaConfig(Kind, frozen=True, kw_only=True, tag="swa"):
    """A snapshot `every` so many steps, once `start`, a fraction of the budget, is spent.

    Steps and tokens are counted with the step at hand, seconds up to its beginning.
    """

    start: float = 0.8
    every: int = 50

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < 1.0:
            raise ValueError(f"start must be at least 0 and below 1, got {self.start}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def build(self, table: ParamTable) -> "Average":
        return Swa(table, self)


AverageConfig = EmaConfig | SwaConfig


def name_of(config: AverageConfig) -> AverageName:
    """Give the name by which recipes choose an average."""
    return "ema" if isinstance(config, EmaConfig) else "swa"


class Average:
    """Averaged copies of all parameters.

    Attributes:
        name: by which recipes and receipts call it.
        count: how many times weights were folded in.
    """

    def __init__(self, table: ParamTable, config: AverageConfig) -> None:
        self.name = name_of(config)
        self.count = torch.zeros((), dtype=torch.int64)
        self._live = [row.value for row in table]
        self._copies = {row.name: row.value.detach().clone() for row in table}

    @torch.no_grad()
    def update(self, *, num_steps: int, progress: float) -> bool:
        """Look at the weights after step number `num_steps`, counted from 1; say whether they were folded in."""
        share = self._share(num_steps, progress)
        if share is None:
            return False
        self.count += 1
        for copy, live in zip(self._copies.values(), self._live, strict=True):
            copy.lerp_(live, share)
        return True

    @abstractmethod
    def _share(self, num_steps: int, progress: float) -> float | None:
        """Give the share of the new weights in the average, None where they do not count."""

    def weights(self) -> dict[str, Tensor]:
        """Name the live averages."""
        return dict(self._copies)

    def state(self) -> dict[str, Tensor]:
        """Name everything that changes, to read or to write in place."""
        return {"count": self.count, **{f"weights.{name}": copy for name, copy in self._copies.items()}}


class Ema(Average):
    """An exponential moving average."""

    def __init__(self, table: ParamTable, config: EmaConfig) -> None:
        super().__init__(table, config)
        self.decay = config.decay

    def _share(self, num_steps: int, progress: float) -> float:
        return 1.0 - min(self.decay, (1 + num_steps) / (10 + num_steps))


class Swa(Average):
    """The mean of snapshots."""

    def __init__(self, table: ParamTable, config: SwaConfig) -> None:
        super().__init__(table, config)
        self.start, self.every = config.start, config.every

    def _share(self, num_steps: int, progress: float) -> float | None:
        if progress < self.start or num_steps % self.every:
            return None
        return 1.0 / (int(self.count) + 1)  # the first snapshot replaces the initial weights


def share_warning(config: AverageConfig) -> str | None:
    """Say so where a plain mean is of more of the run than an average can bear, however long the run is."""
    if not isinstance(config, SwaConfig) or 1.0 - config.start <= LONG_WINDOW:
        return None
    return (
        f"swa averages over the last {1.0 - config.start:.0%} of the run, more than {LONG_WINDOW:.0%}; its weights "
        f"will lag behind: set its start to {1.0 - LONG_WINDOW:g} or later"
    )


def lag_warning(config: AverageConfig, *, step_share: float) -> str | None:
    """Say so where an exponential average reaches back over more of the run than it can bear.

    Args:
        config: the average.
        step_share: the fraction of the run that one of its last steps takes.
    """
    if not isinstance(config, EmaConfig):
        return None
    window = 1.0 / (1.0 - config.decay)
    if window * step_share <= LONG_WINDOW:
        return None
    return (
        f"ema averages over about {window:,.0f} steps, {window * step_share:.0%} of the run at its last pace; "
        "its weights will lag behind"
    )
