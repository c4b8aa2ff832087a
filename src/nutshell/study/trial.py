"""One trial: train, pack and measure one arm with one seed, and leave one small file that says what came out.

A trial runs in a process and a folder of its own. It goes on where it was stopped: a training from its checkpoint, and
what was trained, packed or measured is kept. Its outcome is written last, so that a trial with an outcome is done.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nutshell.config.digest import digest
from nutshell.errors import UsageError
from nutshell.files import sha256_file, write_json
from nutshell.memory import give_back_freed_memory
from nutshell.pipeline import store
from nutshell.pipeline.explain import explain
from nutshell.pipeline.packing import pack_run
from nutshell.pipeline.scoring import score_by_strategy
from nutshell.pipeline.strategies import read_strategy
from nutshell.report.terminal import Terminal
from nutshell.study.config import BYTES, TRAINED, VISITS
from nutshell.study.outcome import Outcome, curve_of, is_complete, read_outcome
from nutshell.study.plan import Trial
from nutshell.study.trainings import RUN, alone, provide_training, trained_bpb

OUTCOME, FAILURE, LOG = "outcome.json", "failure.json", "log.txt"
_MEASURES = "measures.json"
# Of a training's receipt.
_KEPT = ("data_digest", "processor", "versions", "code_digest")


def run_trial(study: str, trial: Trial, data_dir: Path, out: Path, *, terminal: Terminal) -> dict[str, Any]:
    """Run a trial, or what is left of it; return its outcome.

    Args:
        study: Its name.
        trial: The trial.
        data_dir: The data set.
        out: The study's folder.
        terminal: What to say it on.
    """
    folder = out / trial.folder
    with alone(folder, terminal):
        path = folder / OUTCOME
        if path.exists() and is_complete(before := read_outcome(path), trial.measures):
            return msgspec.to_builtins(before)
        start = time.perf_counter()
        run_dir = folder / RUN
        receipt = provide_training(study, trial, data_dir, out, terminal=terminal)
        give_back_freed_memory()
        found = _measure(trial, data_dir, run_dir, terminal)
        outcome = Outcome(
            key=trial.key,
            study=study,
            arm=trial.arm,
            size=trial.size,
            budget=trial.budget_name,
            seed=trial.seed,
            measures={name: found.measures[name] for name in trial.measures},
            visits=found.visits,
            num_params=receipt["num_params"],
            steps=receipt["steps"],
            tokens=receipt["tokens"],
            train_seconds=receipt["seconds"]["train"],
            trial_seconds=time.perf_counter() - start,
            curve=curve_of(run_dir / store.METRICS),
            schedule=trial.recipe.final_schedule.text,
            recipe_digest=digest(trial.recipe),
            **{name: receipt[name] for name in _KEPT},
        )
        write_json(path, msgspec.to_builtins(outcome))
        (folder / FAILURE).unlink(missing_ok=True)
        return msgspec.to_builtins(outcome)


class _Measured(msgspec.Struct, kw_only=True):
    """What was measured so far, of which weights."""

    weights_sha256: str
    measures: dict[str, float] = msgspec.field(default_factory=dict)
    visits: tuple[float, ...] = ()


def _measure(trial: Trial, data_dir: Path, run_dir: Path, terminal: Terminal) -> _Measured:
    """Measure what the study asks for; what was measured of these weights before is kept."""
    path = run_dir / _MEASURES
    found = _Measured(weights_sha256=sha256_file(run_dir / store.WEIGHTS))
    if path.exists():
        kept = msgspec.json.decode(path.read_bytes(), type=_Measured)
        found = kept if kept.weights_sha256 == found.weights_sha256 else found
    wanted = [measure for measure in trial.measures if measure not in found.measures]
    if set(wanted) - {TRAINED}:
        with terminal.stage("pack", unit="packings") as advance:
            found.measures[BYTES] = pack_run(run_dir, data_dir, progress=advance)["artifact_bytes"]
    for measure in wanted:
        if measure == BYTES:
            continue
        with terminal.stage(f"measure {measure}", unit="tokens read") as advance:
            if measure == TRAINED:
                found.measures[TRAINED] = trained_bpb(run_dir)
            elif measure == VISITS:
                rows = explain(run_dir, data_dir, progress=advance)["visits"]
                found.visits = tuple(row["stream_error"] for row in rows)
                found.measures[VISITS] = found.visits[-1]
            else:
                artifact, strategy = run_dir / store.ARTIFACT, read_strategy(measure)
                found.measures[measure] = score_by_strategy(artifact, data_dir, strategy, progress=advance)["bpb"]
        write_json(path, msgspec.to_builtins(found))
    return found


def check_measures(measures: Sequence[str]) -> None:
    """Refuse a measure that is neither one of our own nor a strategy of scoring, before anything runs.

    Raises:
        UsageError: there is one.
    """
    for measure in measures:
        if measure not in (TRAINED, BYTES, VISITS):
            try:
                read_strategy(measure)
            except ValueError as error:
                own = f"'{TRAINED}', '{BYTES}', '{VISITS}'"
                raise UsageError(f"study: measure '{measure}' is none of {own}, and no strategy: {error}") from error
