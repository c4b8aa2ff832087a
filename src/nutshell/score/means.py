"""What a text is scored with: room for batches, other processes, a limit of time. None of them changes a nat."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from nutshell.errors import BudgetError
from nutshell.score.predictor import Progress

Clock = Callable[[], float]

# What a processor's caches hold of a small model's activations and logits: larger batches were slower (docs/log.md).
BATCH_TOKENS = 2_048


class Team(Protocol):
    """The processes that score one text together; all of them hold all of it."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def agree(self, value: float) -> float:
        """Give every process the first one's value."""
        ...

    def add_up(self, values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Sum arrays over the processes."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def agree(self, value: float) -> float:
        return value

    def add_up(self, values: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        return values


class Budget:
    """A limit in seconds, counted from when it is made: it says after each chunk whether there is time for another.

    A further chunk is taken to last as long as the longest so far.

    Args:
        seconds: The limit.
        clock: What time it is, in seconds.
        tell: Told the forecast as soon as there is one.

    Attributes:
        seconds: The limit.
        forecast_seconds: What the whole text would take, as it looked after the first chunk; None before.
    """

    def __init__(
        self, seconds: float, clock: Clock = time.perf_counter, tell: Callable[[float], None] | None = None
    ) -> None:
        if not seconds > 0:
            raise BudgetError(f"budget of {seconds:g} s: give a number of seconds above 0")
        self.seconds = seconds
        self.forecast_seconds: float | None = None
        self._clock, self._tell = clock, tell
        self._started = self._last = clock()
        self._longest = 0.0

    def begin(self) -> None:
        """Count what comes from now on as the first chunk's: loading is over."""
        self._last = self._clock()

    def allows_more(self, done: int, total: int, team: Team) -> bool:
        """Say whether there is time for another chunk, now that `done` of `total` targets are scored.

        Raises:
            BudgetError: the first chunk took longer than there was time for.
        """
        now = team.agree(self._clock())
        spent, chunk = now - self._started, now - self._last
        self._last, self._longest = now, max(self._longest, chunk)
        if self.forecast_seconds is None:
            self.forecast_seconds = spent + chunk * (total - done) / done
            if spent > self.seconds:
                raise BudgetError(
                    f"budget of {self.seconds:g} s: too small for one chunk of {done} targets, which ended after "
                    f"{spent:.1f} s; the whole text would take about {self.forecast_seconds:.0f} s"
                )
            if self._tell:
                self._tell(self.forecast_seconds)
        return spent + self._longest <= self.seconds


def rising(advance: Callable[[int], None]) -> Progress:
    """Make of a meter of several pieces of work the progress of one of them."""
    before = 0

    def tell(done: int, _: int) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return tell


@dataclass(frozen=True, slots=True)
class Means:
    """With what a text is scored.

    Attributes:
        batch_tokens: Most input tokens in one call of the model, padding included (one window may exceed it).
        team: The processes that share the work.
        budget: A limit of time; none means to the end of the text.
        progress: Told how far the work is.
    """

    batch_tokens: int = BATCH_TOKENS
    team: Team = field(default_factory=Alone)
    budget: Budget | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        assert self.batch_tokens > 0

    def is_mine(self, number: int) -> bool:
        """Say whether this process does this piece of the work: they take turns."""
        return number % self.team.size == self.team.rank

    def meter(self, total: int) -> Callable[[int], None]:
        """Give what counts work up to a total, and tells the progress."""
        done = 0

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            if self.progress:
                self.progress(done, total)

        return advance
