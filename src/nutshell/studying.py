"""The verbs of studies: alone, for they need scipy, which not every install has."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter, validators
from rich.live import Live

from nutshell.data.dataset import Dataset
from nutshell.errors import RunError, UsageError
from nutshell.files import write_bytes, write_json
from nutshell.report.terminal import Terminal

try:
    from nutshell.study.analysis import analyse
except ModuleNotFoundError as error:
    if error.name != "scipy":
        raise
    raise UsageError("studies need scipy, which is not here: pip install 'nutshell-lm[study]'") from error

from nutshell.study.executors import Executor, ExecutorName, make_executor
from nutshell.study.plan import Plan, chosen, read_study
from nutshell.study.runner import Folders, Progress, run_study, terminable
from nutshell.study.runs import compare_runs
from nutshell.study.stored import read_stored, restore_study, store_study
from nutshell.study.tables import analysis_view, plan_view, progress_view, runs_view
from nutshell.study.trial import check_measures, run_trial

Json = Annotated[bool, Parameter(name="--json", negative="")]
Flag = Annotated[bool, Parameter(negative="")]
AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1))]


def study_plan(file: Path, *, data: Path, json: Json = False) -> None:
    """Show the arms and trials of a study, without running anything.

    Args:
        file: the study file.
        data: data set of the recipes' tokenizer.
        json: print the plan as JSON.
    """
    plan = _read(file, data)
    rows = [
        {"arm": trial.arm, "size": trial.size, "budget": trial.budget_name, "seed": trial.seed, "key": trial.key}
        for trial in plan.trials
    ]
    arms = [{"arm": arm.name, "against": arm.against, "hypothesis": arm.hypothesis} for arm in plan.arms]
    Terminal(as_json=json).result({"about": plan.config.about, "arms": arms, "trials": rows}, plan_view)


def study_run(
    file: Path,
    *,
    data: Path,
    out: Path | None = None,
    executor: ExecutorName = "local",
    parallel: AtLeastOne | None = None,
    store: Path | None = None,
    retry: Flag = False,
    json: Json = False,
) -> None:
    """Run what is left of a study: each arm and seed in a process of its own.

    It may be stopped at any moment; the same command goes on, and runs nothing twice.

    Args:
        file: the study file.
        data: data set of the recipes' tokenizer.
        out: folder of the trials; runs/studies/NAME unless given.
        executor: where trials run: `local`, or `ray`, a cluster.
        parallel: trials at once; as many as the processors have room for unless given.
        store: keep all outcomes in this one file, too; trials whose outcomes it holds already are done.
        retry: try trials again that failed.
        json: print the analysis as JSON.
    """
    plan = _read(file, data)
    folder = out or _default_out(plan)
    terminal = Terminal(as_json=json)
    runs_where: Executor = make_executor(executor, threads=plan.config.limits.threads, parallel=parallel)
    if store is not None and store.exists():
        restore_study(store, plan, Folders(folder))
    live = Live(console=terminal.err, auto_refresh=False, transient=True) if terminal.voice == "live" else None
    with terminable(), live or nullcontext():

        def watch(progress: Progress) -> None:
            if store is not None and progress.last and progress.outcomes:
                store_study(store, plan, progress)
            if live:
                live.update(progress_view(_states(plan, progress), progress.last), refresh=True)
            elif progress.last:
                done = sum(state == "done" for state in progress.states.values())
                terminal.note(f"{progress.last} ({done} of {len(progress.states)})")

        progress = run_study(plan, file, data, folder, runs_where, retry=retry, watch=watch)
    analysis = analyse(plan, progress.outcomes.values(), failed=progress.failures())
    terminal.result(msgspec.to_builtins(analysis), lambda _: analysis_view(analysis))
    if failed := progress.failed:
        raise RunError(
            f"{file}: {len(failed)} of {len(plan.trials)} trials failed, the first in {folder / failed[0].folder}"
        )


def study_trial(
    file: Path,
    *,
    data: Path,
    arm: str,
    seed: int,
    budget: str | None = None,
    size: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Run one trial of a study, as `study run` does.

    Args:
        file: the study file.
        data: data set of the recipes' tokenizer.
        arm: name of the arm.
        seed: one of the study's seeds.
        budget: one of its budgets, as in `600steps`; may be left out if there is only one.
        size: one of its sizes; may be left out if there is only one.
        out: folder of the trials; runs/studies/NAME unless given.
        json: print the outcome as JSON.
    """
    plan = _read(file, data)
    trial = chosen(plan, arm=arm, seed=seed, budget=budget, size=size)
    terminal = Terminal(as_json=json)
    outcome = run_trial(plan.name, trial, data, out or _default_out(plan), terminal=terminal)
    terminal.result(
        outcome, lambda found: "\n".join(f"{name}: {value:.6g}" for name, value in found["measures"].items())
    )


def study_report(
    file: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    stored: Path | None = None,
    store: Path | None = None,
    html: Path | None = None,
    markdown: Path | None = None,
    json: Json = False,
) -> None:
    """Say what a study has found so far, from the outcomes of its trials.

    Args:
        file: the study file.
        data: data set of the recipes' tokenizer; not needed with --stored.
        out: folder of the trials; runs/studies/NAME unless given.
        stored: outcomes that were stored, instead of a folder of trials.
        store: write all outcomes to this one file, for --stored.
        html: write the report to this file.
        markdown: write the report to this file, as Markdown.
        json: print the analysis as JSON.
    """
    # What makes pages is not needed to run trials.
    from nutshell.study.report import study_html, study_markdown  # noqa: PLC0415

    if (data is None) == (stored is None):
        raise UsageError("study report: give the data set (--data) of trials that ran here, or what was --stored")
    if stored is not None:
        found = read_stored(stored)
        plan = read_study(file, data_digest=found.data_digest)
        analysis, outcomes = analyse(plan, found.outcomes, failed=found.failures()), list(found.outcomes)
    else:
        assert data is not None
        plan = _read(file, data)
        folders = Folders(out or _default_out(plan))
        progress = folders.progress(plan)
        outcomes = list(progress.outcomes.values())
        analysis = analyse(plan, outcomes, failed=progress.failures())
        if store is not None:
            store_study(store, plan, progress)
    if html is not None:
        write_bytes(html, study_html(plan, analysis, outcomes, command=_command(file, stored)).encode())
    if markdown is not None:
        write_bytes(markdown, study_markdown(plan, analysis, command=_command(file, stored)).encode())
    terminal = Terminal(as_json=json)
    terminal.result(msgspec.to_builtins(analysis), lambda _: analysis_view(analysis))


def compare(
    *runs: Annotated[str, Parameter(allow_leading_hyphen=True)],
    metric: str = "bpb",
    margin: float = 0.0,
    alpha: float = 0.05,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Compare finished runs of two kinds, outside a study: `nutshell compare RUN_A... -- RUN_B...`.

    Runs that share a seed are paired where there are two or more such pairs.

    Args:
        runs: run directories of `nutshell run`: those of A, then `--`, then those of B.
        metric: number of their summary.json.
        margin: differences that do not matter.
        alpha: probability that the verdict is false.
        out: write the comparison to this file instead of printing it.
        json: print the comparison as JSON.
    """
    result = compare_runs(runs, metric=metric, margin=margin, alpha=alpha)
    if out:
        write_json(out, result)
        return
    Terminal(as_json=json).result(result, runs_view)


def _read(file: Path, data: Path) -> Plan:
    plan = read_study(file, data_digest=Dataset.open(data).digest)
    check_measures(plan.config.measures)
    return plan


def _default_out(plan: Plan) -> Path:
    return Path("runs/studies") / plan.name


def _states(plan: Plan, progress: Progress) -> list[dict[str, Any]]:
    """Count the states of each arm's trials."""
    rows = []
    for arm in plan.arms:
        own = [trial for trial in plan.trials if trial.arm == arm.name]
        states = [progress.states[trial] for trial in own]
        rows.append({"arm": arm.name, **{state: states.count(state) for state in ("done", "failed", "waiting")}})
    return rows


def _command(file: Path, stored: Path | None) -> str:
    return f"nutshell study report {file} --stored {stored}" if stored else f"nutshell study run {file} --data DIR"
