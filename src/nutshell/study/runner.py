"""Running a study: every trial once, those that failed on the record, and the rest all the same.

All state is in the folders of the trials: an outcome means done, a failure means tried. So a runner that was killed, at
whatever moment, is started again and goes on; what it finds is what it would have found. Which arms get more seeds is
decided from outcomes alone, seed by seed in the order of the study, so that it is the same on every machine that has
them.
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nutshell.files import write_json
from nutshell.study.analysis import Cell, still_open
from nutshell.study.executors import Executor
from nutshell.study.jobs import Ended, Job
from nutshell.study.outcome import Outcome, is_complete, read_outcome
from nutshell.study.plan import Plan, Trial
from nutshell.study.trial import FAILURE, LOG, OUTCOME

State = Literal["waiting", "done", "failed"]
Watch = Callable[["Progress"], object]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a study is: the state of each trial, and what ended last."""

    states: dict[Trial, State]
    outcomes: dict[Trial, Outcome]
    last: str = ""

    @property
    def failed(self) -> list[Trial]:
        return [trial for trial, state in self.states.items() if state == "failed"]

    def failures(self) -> Mapping[tuple[str, Cell], int]:
        """Count those that failed, by arm and cell."""
        return Counter((trial.arm, Cell(trial.size, trial.budget_name)) for trial in self.failed)


class Folders:
    """The folders of a study's trials, and what is in them."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def of(self, trial: Trial) -> Path:
        return self.out / trial.folder

    def outcome(self, trial: Trial) -> Outcome | None:
        """Give the outcome of a trial, if all that the study wants of it was measured."""
        path = self.of(trial) / OUTCOME
        found = read_outcome(path) if path.exists() else None
        return found if found and is_complete(found, trial.measures) else None

    def has_failed(self, trial: Trial) -> bool:
        return (self.of(trial) / FAILURE).exists()

    def outcomes(self, trials: Sequence[Trial]) -> dict[Trial, Outcome]:
        found = ((trial, self.outcome(trial)) for trial in trials)
        return {trial: outcome for trial, outcome in found if outcome is not None}

    def progress(self, plan: Plan, last: str = "") -> Progress:
        """Say where a study is."""
        outcomes = self.outcomes(plan.trials)
        states: dict[Trial, State] = {
            trial: "done" if trial in outcomes else "failed" if self.has_failed(trial) else "waiting"
            for trial in plan.trials
        }
        return Progress(states, outcomes, last)


@contextmanager
def terminable() -> Iterator[None]:
    """Take SIGTERM, from whoever manages the machine, as a Ctrl-C: trials are stopped, and not left behind."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt("stopped; the same command goes on")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_study(
    plan: Plan,
    file: Path,
    data_dir: Path,
    out: Path,
    executor: Executor,
    *,
    retry: bool,
    watch: Watch,
) -> Progress:
    """Run what is left of a study; return where it ended.

    Args:
        plan: The study, as read from `file`.
        file: The study file; the trials' processes read it again.
        data_dir: The data set.
        out: Folder of the trials' folders.
        executor: Where they run.
        retry: Whether trials that failed are tried again.
        watch: Told of the state at the beginning, and as each trial ends.
    """
    folders = Folders(out)
    if retry:
        for trial in plan.trials:
            (folders.of(trial) / FAILURE).unlink(missing_ok=True)
    watch(folders.progress(plan))
    for trials in _rounds(plan, folders):
        due = {trial.folder: trial for trial in trials if _is_due(trial, folders)}
        jobs = [_job(plan, trial, file, data_dir, folders) for trial in due.values()]
        for ended in executor.run(jobs):
            trial = due[ended.name]
            if ended.reason:
                folders.of(trial).mkdir(parents=True, exist_ok=True)  # a job that never began has none
                write_json(folders.of(trial) / FAILURE, _failure(ended))
            watch(folders.progress(plan, last=_says(ended)))
    return folders.progress(plan)


def _rounds(plan: Plan, folders: Folders) -> Iterator[list[Trial]]:
    """Give the trials of each look; which arms the next one has is known when those before have run."""
    sequential = plan.config.sequential
    if sequential is None:
        yield list(plan.trials)
        return
    before = 0
    for look in sequential.looks:
        seeds = plan.config.seeds[:look]
        outcomes = folders.outcomes(plan.trials_with(plan.config.seeds[:before]))
        active = still_open(plan, outcomes.values()) if before else None
        yield [trial for trial in plan.trials_with(seeds) if active is None or active(trial)]
        before = look


def _is_due(trial: Trial, folders: Folders) -> bool:
    return folders.outcome(trial) is None and not folders.has_failed(trial)


def _job(plan: Plan, trial: Trial, file: Path, data_dir: Path, folders: Folders) -> Job:
    limits, folder = plan.config.limits, folders.of(trial)
    which = ["--arm", trial.arm, "--seed", str(trial.seed), "--budget", trial.budget_name]
    which += ["--size", trial.size] if trial.size else []
    # Whole paths: a cluster's process begins in another folder.
    inputs = (file.resolve(), "--data", data_dir.resolve(), "--out", folders.out.resolve())
    return Job(
        name=trial.folder,
        arguments=["study", "trial", *(str(part) for part in (*inputs, *which))],
        log=folder / LOG,
        seconds=60 * limits.minutes,
        memory_bytes=1e9 * limits.memory_gb if limits.memory_gb else None,
    )


def _failure(ended: Ended) -> dict[str, Any]:
    return {
        "reason": ended.reason,
        "status": ended.status,
        "said": ended.said,
        "seconds": ended.seconds,
        "peak_bytes": ended.peak_bytes,
    }


def _says(ended: Ended) -> str:
    if not ended.reason:
        return f"{ended.name}: done"
    last = ended.said.splitlines()[-1] if ended.said else "it said nothing"
    why = {"time": "took too long", "memory": "took too much memory", "stopped": "was stopped"}.get(ended.reason, last)
    return f"{ended.name}: failed: {why}"
