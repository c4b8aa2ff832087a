"""One clock: what is spent of the budget, and when to stop.

Progress in [0, 1] is the only time that schedules see.
"""

import time
from collections.abc import Callable

import msgspec

from nutshell.train.config import BudgetConfig


class WallClock:
    """Real time since it was made, on top of what an interrupted run had spent."""

    def __init__(self, already: float = 0.0) -> None:
        self._start = time.perf_counter() - already

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def stop_for(self, work: Callable[[], None]) -> float:
        """Do what is not training and is not counted as such; return the seconds that it took."""
        start = time.perf_counter()
        work()
        took = time.perf_counter() - start
        self._start += took
        return took


class Laps:
    """Consecutive pieces of this process's time, added up by name: together they are all of it.

    Attributes:
        seconds: by name, in the order in which they first came.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, name: str, *, less: float = 0.0) -> None:
        """Say what the time since the last call went into, less the seconds that another clock has counted."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last - less
        self._last = now


class Spent(msgspec.Struct):
    """What a run has used so far; the seconds of probes are none of its budget's."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    probe_seconds: float = 0.0


def progress(budget: BudgetConfig, spent: Spent) -> float:
    """Give the spent fraction of the budget, at most 1."""
    if budget.seconds is not None:
        return min(spent.seconds / budget.seconds, 1.0)
    if budget.steps is not None:
        return min(spent.steps / budget.steps, 1.0)
    assert budget.tokens is not None
    return min(spent.tokens / budget.tokens, 1.0)


def is_spent(budget: BudgetConfig, spent: Spent, *, step_seconds: float) -> bool:
    """Say whether to stop: the budget is used up, or the next step would end more than half outside it."""
    if budget.seconds is not None:
        return spent.seconds + step_seconds / 2 >= budget.seconds
    return progress(budget, spent) >= 1.0
