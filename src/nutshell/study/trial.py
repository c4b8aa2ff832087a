"""One trial: train, pack and measure one arm with one seed, and leave one small file that says what came out.

A trial runs in a process and a folder of its own. It goes on where it was stopped: a training from its checkpoint, and
what was trained, packed or measured is kept. Its outcome is written last, so that a trial with an outcome is done.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nutshell.errors import UsageError
from nutshell.files import read_json, sha256_file, write_json
from nutshell.memory import give_back_freed_memory
from nutshell.pipeline import store
from nutshell.pipeline.averages import is_scored, score_weights
from nutshell.pipeline.explain import explain
from nutshell.pipeline.packing import pack_run
from nutshell.pipeline.scoring import score_by_strategy
from nutshell.pipeline.strategies import read_strategy
from nutshell.report.terminal import Terminal
from nutshell.study.config import BYTES, TRAINED, VISITS
from nutshell.study.outcome import Outcome, curve_of, is_complete, read_outcome
from nutshell.study.plan import Trial
from nutshell.study.trainings import RUN, alone, provide_training

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
        if path.exists() and is_complete(found := read_outcome(path), trial.measures):
            return msgspec.to_builtins(found)
        start = time.perf_counter()
        run_dir = folder / RUN
        receipt = provide_training(study, trial, data_dir, out, terminal=terminal)
        give_back_freed_memory()
        measures, visits = _measure(trial, data_dir, run_dir, terminal)
        outcome = Outcome(
            key=trial.key,
            study=study,
            arm=trial.arm,
            size=trial.size,
            budget=trial.budget_name,
            seed=trial.seed,
            measures=measures,
            visits=visits,
            num_params=receipt["num_params"],
            steps=receipt["steps"],
            tokens=receipt["tokens"],
            train_seconds=receipt["seconds"]["train"],
            trial_seconds=time.perf_counter() - start,
            curve=curve_of(run_dir / store.METRICS),
            schedule=trial.recipe.final_schedule.text,
            **{
                name: receipt[name] for name in ("data_digest", "recipe_digest", "processor", "versions", "code_digest")
            },
        )
        found = msgspec.to_builtins(outcome)
        write_json(path, found)
        (folder / FAILURE).unlink(missing_ok=True)
        return found


def _measure(
    trial: Trial, data_dir: Path, run_dir: Path, terminal: Terminal
) -> tuple[dict[str, float], tuple[float, ...]]:
    """Measure what the study asks for; what was measured of these weights before is kept."""
    weights = sha256_file(run_dir / store.WEIGHTS)
    path = run_dir / _MEASURES
    kept = read_json(path) if path.exists() else {}
    found: dict[str, float] = kept.get("found", {}) if kept.get("weights_sha256") == weights else {}
    visits: tuple[float, ...] = ()
    wanted = [measure for measure in trial.measures if measure not in found]
    if wanted != [TRAINED]:
        with terminal.stage("pack", unit="packings") as advance:
            ledger = pack_run(run_dir, data_dir, progress=advance)
        found[BYTES] = ledger["artifact_bytes"]
    for measure in wanted:
        if measure == BYTES:
            continue
        with terminal.stage(f"measure {measure}", unit="tokens read") as advance:
            if measure == TRAINED:
                if not is_scored(run_dir, trial.recipe):
                    score_weights(run_dir, data_dir, progress=advance)
                averages = read_json(run_dir / store.AVERAGES)
                found[TRAINED] = averages["weights"][averages["packed"]]["disjoint_bpb"]
            elif measure == VISITS:
                rows = explain(run_dir, data_dir, progress=advance)["visits"]
                visits = tuple(row["stream_error"] for row in rows)
                found[VISITS] = visits[-1]
            else:
                strategy = read_strategy(measure)
                found[measure] = score_by_strategy(run_dir / store.ARTIFACT, data_dir, strategy, progress=advance)[
                    "bpb"
                ]
        write_json(path, {"weights_sha256": weights, "found": found, "visits": visits or kept.get("visits", ())})
    return {name: found[name] for name in trial.measures}, visits or tuple(kept.get("visits", ()))


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
