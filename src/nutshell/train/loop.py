"""The training loop: gradient, step, average, log, maybe probe, maybe save.

Everything is prepared before the clock starts (preparing.py). Progress on the one clock picks the phase and the rates;
the first rank measures it, and all ranks receive it.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nutshell.config.curve import value_at
from nutshell.errors import RunError
from nutshell.model.depth import DepthSchedule
from nutshell.ranks import Ranks
from nutshell.train.averaging import lag_warning, share_warning
from nutshell.train.checkpoint import Identity
from nutshell.train.clock import Spent, WallClock, is_spent, progress
from nutshell.train.config import BudgetConfig, TrainConfig
from nutshell.train.gradient import Gradients
from nutshell.train.interrupts import Interrupted, deferred_interrupt
from nutshell.train.phases import Phase, draw, phase_at
from nutshell.train.probing import Probing
from nutshell.train.record import Activity
from nutshell.train.state import TrainState

OnRow = Callable[[dict[str, Any]], object]
# The name under which a record has quantization-aware training.
QAT = "qat"
# Averages are judged once this much of the last phase tells how long the run's last steps take.
_JUDGED_AT = 0.05


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


def train(
    plan: Plan,
    state: TrainState,
    gradients: Gradients,
    on_row: OnRow,
    *,
    on_warning: Callable[[str], object] = lambda _: None,
    probing: Probing | None = None,
) -> None:
    """Train until the budget is spent; `state` ends as the trained model.

    Probes stop the clock: they cost a run time, and none of its steps.

    Raises:
        RunError: the loss or a gradient is not finite.
        Interrupted: Ctrl-C; the checkpoint is written.
    """
    config, ranks, spent = plan.config, gradients.ranks, state.spent
    clock = WallClock(already=spent.seconds)
    step_seconds, save_seconds, saved_at = 0.0, 0.0, spent.seconds
    for warning in filter(None, map(share_warning, config.averages)):
        on_warning(warning)
    with deferred_interrupt() as interrupted:
        while not is_spent(config.budget, spent, step_seconds=step_seconds):
            now = progress(config.budget, spent)
            number = phase_at(now, plan.phases)
            phase = plan.phases[number]
            schedule = draw(phase, seed=plan.identity.seed, step=spent.steps)
            clock.stop_for(partial(gradients.stages.begin, number, schedule.text))
            nats = gradients.make(phase, schedule, spent)
            _check_loss(nats, plan, state, saved_at)
            rates = _step(plan, state, now, saved_at)
            quantized = phase.quantized and (state.after_step is None or state.after_step(spent.steps))
            gradients.stages.done("optimizer")
            spent.steps += 1
            spent.tokens += phase.batch_tokens
            averaged = state.average(progress(config.budget, spent))
            gradients.stages.done("average")
            seconds = ranks.agree(clock.seconds())
            step_seconds, spent.seconds = seconds - spent.seconds, seconds
            row = _row(spent, now, nats, rates, step_seconds, phase, number, schedule)
            for warning in _note(
                state,
                row,
                [phase.name, *averaged, *([QAT] if quantized else []), *_decays(state, now)],
                before=now,
                plan=plan,
            ):
                on_warning(warning)
            on_row(row)
            gradients.stages.done("logging")
            clock.stop_for(gradients.stages.end)  # it may read a recording, for seconds
            if probing and probing.is_due(spent):
                _probe(probing, clock, plan, spent, number)
            stop = ranks.any(interrupted())
            is_due = _is_save_due(config, spent, saved_at, step_seconds=step_seconds, save_seconds=save_seconds)
            if stop or is_due:
                _save(plan, state, ranks, saved_at)
                saved_at = spent.seconds
            if stop:
                raise _stopped(plan, spent, ranks)
            if is_due:  # what it took is the budget's, and no step's
                spent.seconds = ranks.agree(clock.seconds())
                save_seconds = spent.seconds - saved_at
        if probing and probing.is_due(spent, at_the_end=True):
            _probe(probing, clock, plan, spent, len(plan.phases) - 1)
        _save(plan, state, ranks, saved_at)
        if ranks.any(interrupted()):
            raise _stopped(plan, spent, ranks)


def _decays(state: TrainState, now: float) -> list[str]:
    """Name the scheduled weight decays that act at a moment."""
    decays = state.optimizers.config.scheduled_decays()
    return [name for name, curve in decays.items() if value_at(curve, now) > 0]


def _stopped(plan: Plan, spent: Spent, ranks: Ranks) -> Interrupted:
    """Say that a run was stopped; all ranks say so together, for a launcher ends those that stay behind one."""
    ranks.agree(0.0)
    return Interrupted(
        f"stopped at step {spent.steps}; {plan.checkpoint_path} is written: train --resume, or run again"
    )


def _check_loss(nats: float, plan: Plan, state: TrainState, saved_at: float) -> None:
    """Stop a run that has gone wrong before its weights do, or at the first step that shows that they have."""
    if not math.isfinite(nats):
        name = state.first_not_finite()
        where = f"weight '{name}' is not finite" if name else "all weights are finite"
        raise RunError(
            _went_wrong(f"the loss is {nats}, {where}; lower the learning rates", plan, state.spent, saved_at)
        )


def _step(plan: Plan, state: TrainState, now: float, saved_at: float) -> dict[str, float]:
    """Let the optimizers update the weights; a gradient that is not finite is told with its step."""
    try:
        return state.optimizers.step(now)
    except RunError as error:
        raise RunError(_went_wrong(str(error), plan, state.spent, saved_at)) from error


def _went_wrong(what: str, plan: Plan, spent: Spent, saved_at: float) -> str:
    kept = f"{plan.checkpoint_path} has the run at {saved_at:.1f} s" if saved_at else "nothing was saved before it"
    return f"step {spent.steps + 1}: {what} ({kept})"


def _is_save_due(
    config: TrainConfig, spent: Spent, saved_at: float, *, step_seconds: float, save_seconds: float
) -> bool:
    """Say whether to write a checkpoint now; not where the end, which has its own, would follow at once."""
    after = Spent(spent.steps, spent.tokens, spent.seconds + save_seconds)
    is_last = is_spent(config.budget, after, step_seconds=step_seconds)
    return spent.seconds - saved_at >= config.checkpoint_seconds and not is_last


def _save(plan: Plan, state: TrainState, ranks: Ranks, saved_at: float) -> None:
    """Write the checkpoint; all ranks give what they hold, the first one writes.

    Raises:
        RunError: a weight is not finite; the last checkpoint stays.
    """
    start = time.perf_counter()
    if name := state.first_not_finite():
        # The step is the one before: the update that spoiled the weight was its last.
        before = Spent(state.spent.steps - 1, state.spent.tokens, state.spent.seconds)
        raise RunError(_went_wrong(f"weight '{name}' is not finite; lower the learning rates", plan, before, saved_at))
    checkpoint = state.checkpoint(plan.identity)
    if ranks.is_first:
        checkpoint.write(plan.checkpoint_path)
    state.record.note_saved(time.perf_counter() - start)


def _probe(probing: Probing, clock: WallClock, plan: Plan, spent: Spent, phase: int) -> None:
    spent.probe_seconds += clock.stop_for(partial(probing.read, spent, phase, plan.phases[phase]))


def _note(
    state: TrainState, row: dict[str, Any], features: Sequence[str], *, before: float, plan: Plan
) -> Iterator[str]:
    """Put a step on the record; give what a user should hear of it."""
    spent, record = state.spent, state.record
    seconds = 1e-3 * row["ms_per_step"]
    for name in features:
        record.note_active(name, spent.steps, tokens=row["batch_tokens"], seconds=seconds)
    spike = record.note_step(spent.steps, loss=row["loss"], grad_norm=row["grad_norm"], seconds=seconds)
    if spike:
        yield f"step {spike.step}: the loss is {spike.loss:.3f}, about {spike.expected:.3f} was usual"
    last = record.features.get(plan.phases[-1].name)
    if last and _is_judged(plan, last, before=before, now=progress(plan.config.budget, spent)):
        share = _step_share(plan.config.budget, last)
        yield from filter(None, (lag_warning(average, step_share=share) for average in plan.config.averages))


def _is_judged(plan: Plan, last: Activity, *, before: float, now: float) -> bool:
    """Say whether averages are judged after the step between these two moments of progress."""
    begin = plan.phases[-2].until if len(plan.phases) > 1 else 0.0
    judged_at = begin + _JUDGED_AT * (1.0 - begin)
    return now >= judged_at and (before < judged_at or last.steps == 1)


def _step_share(budget: BudgetConfig, phase: Activity) -> float:
    """Give the fraction of the budget that a step of a phase takes."""
    if budget.seconds is not None:
        return phase.seconds / phase.steps / budget.seconds
    if budget.steps is not None:
        return 1.0 / budget.steps
    assert budget.tokens is not None
    return phase.tokens / phase.steps / budget.tokens


def _row(
    spent: Spent,
    now: float,
    nats: float,
    rates: Mapping[str, float],
    step_seconds: float,
    phase: Phase,
    number: int,
    schedule: DepthSchedule,
) -> dict[str, Any]:
    return {
        "step": spent.steps,
        "progress": now,
        "seconds": spent.seconds,
        "tokens": spent.tokens,
        "loss": nats,
        **rates,
        "ms_per_step": 1e3 * step_seconds,
        "batch_tokens": phase.batch_tokens,
        "tokens_per_second": phase.batch_tokens / step_seconds,
        "phase": number,
        "schedule": schedule.text,
    }
