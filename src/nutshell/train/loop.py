"""The training loop: batch, gradient, step, average, log, maybe probe, maybe save.

Everything is prepared before the clock starts: graphs are compiled on synthetic tokens for every schedule the run will
use, which touches no weight. Progress on the one clock picks the phase and the rates.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from nutshell.errors import RunError
from nutshell.model.depth import DepthSchedule
from nutshell.train.checkpoint import Identity
from nutshell.train.clock import Spent, WallClock, is_spent, progress
from nutshell.train.config import TrainConfig
from nutshell.train.loss import TrainingLoss
from nutshell.train.phases import Phase, draw, phase_at
from nutshell.train.probing import Probing
from nutshell.train.state import TrainState

OnRow = Callable[[dict[str, object]], None]


class BatchSource(Protocol):
    """Training batches as a pure function of the step: inputs and targets, int64 [B T]."""

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]: ...


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended training between two steps; the checkpoint continues it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does: its settings, its phases, and where its checkpoint goes."""

    config: TrainConfig
    phases: tuple[Phase, ...]
    checkpoint_path: Path
    identity: Identity

    @property
    def schedules(self) -> tuple[DepthSchedule, ...]:
        """Every schedule that will run, each once."""
        return tuple(dict.fromkeys(schedule for phase in self.phases for schedule in phase.schedules))


def prepare(plan: Plan, loss: TrainingLoss, vocab_size: int) -> float:
    """Compile forward and backward of every schedule on synthetic tokens; return the seconds it took.

    Weights, optimizer and batches are untouched; the gradients it leaves are the caller's to clear.
    """
    start = time.perf_counter()
    tokens = torch.arange(plan.config.batch_tokens).reshape(plan.config.batch_size, -1) % vocab_size
    for schedule in plan.schedules:
        loss(tokens, tokens, schedule).objective.backward()
    return time.perf_counter() - start


def train(
    plan: Plan,
    state: TrainState,
    loss: TrainingLoss,
    batches: BatchSource,
    on_row: OnRow,
    probing: Probing | None = None,
) -> None:
    """Train until the budget is spent; `state` ends as the trained model.

    Probes stop the clock: they cost a run time, and none of its steps.

    Raises:
        RunError: the loss is not finite.
        Interrupted: Ctrl-C; the checkpoint is written.
    """
    config, spent = plan.config, state.spent
    clock = WallClock(already=spent.seconds)
    step_seconds, saved_at = 0.0, spent.seconds
    with _deferred_interrupt() as interrupted:
        while not is_spent(config.budget, spent, step_seconds=step_seconds):
            started = clock.seconds()
            now = progress(config.budget, spent)
            phase = phase_at(now, plan.phases)
            schedule = draw(plan.phases[phase], seed=plan.identity.seed, step=spent.steps)
            nats = _gradient_step(loss, batches, state, schedule)
            lr_scale = state.optimizers.step(now)
            spent.steps += 1
            spent.tokens += config.batch_tokens
            if state.average:
                state.average.update(spent.steps)
            spent.seconds = clock.seconds()
            step_seconds = spent.seconds - started
            on_row(_row(spent, now, nats, lr_scale, step_seconds, config.batch_tokens, phase, schedule))
            if probing and probing.is_due(spent):
                _probe(probing, clock, plan, spent, phase)
            if interrupted() or spent.seconds - saved_at >= config.checkpoint_seconds:
                state.checkpoint(plan.identity).write(plan.checkpoint_path)
                saved_at = spent.seconds
            if interrupted():
                raise Interrupted(
                    f"stopped at step {spent.steps}; {plan.checkpoint_path} is written: train --resume, or run again"
                )
        if probing and probing.is_due(spent, at_the_end=True):
            _probe(probing, clock, plan, spent, len(plan.phases) - 1)
    state.checkpoint(plan.identity).write(plan.checkpoint_path)


def _gradient_step(loss: TrainingLoss, batches: BatchSource, state: TrainState, schedule: DepthSchedule) -> float:
    """Leave the gradients of one batch; return its loss in nats a token."""
    inputs, targets = (torch.from_numpy(part) for part in batches.batch(state.spent.steps))
    value = loss(inputs, targets, schedule)
    value.objective.backward()
    nats = value.nats.item()
    if not math.isfinite(nats):
        raise RunError(f"step {state.spent.steps + 1}: the loss is {nats}; lower the learning rates")
    return nats


def _probe(probing: Probing, clock: WallClock, plan: Plan, spent: Spent, phase: int) -> None:
    spent.probe_seconds += clock.stop_for(partial(probing.read, spent, phase, plan.phases[phase]))


def _row(spent, now, nats, lr_scale, step_seconds, batch_tokens, phase, schedule) -> dict[str, object]:  # noqa: ANN001
    return {
        "step": spent.steps,
        "progress": now,
        "seconds": spent.seconds,
        "tokens": spent.tokens,
        "loss": nats,
        "lr": lr_scale,
        "ms_per_step": 1e3 * step_seconds,
        "tokens_per_second": batch_tokens / step_seconds,
        "phase": phase,
        "schedule": schedule.text,
    }


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a question the loop asks between steps; a second one stops at once."""
    asked = False

    def note(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
