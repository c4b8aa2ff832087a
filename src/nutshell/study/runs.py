"""Finished runs of two kinds beside one another, outside a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nutshell.errors import UsageError
from nutshell.pipeline import store
from nutshell.study import stats

SEPARATOR = "--"


def compare_runs(runs: Sequence[str], *, metric: str, margin: float, alpha: float) -> dict[str, Any]:
    """Compare the runs before `--` with those behind it.

    Raises:
        UsageError: one side has no runs or has a seed twice, or a setting is out of range.
        RunError: a run has not been finished, or is an exploration.
    """
    if runs.count(SEPARATOR) != 1:
        raise UsageError("compare: put '--' between the runs of A and those of B")
    if not 0 < alpha < 1 or margin < 0:
        raise UsageError(f"compare: alpha {alpha:g} must be between 0 and 1, margin {margin:g} not negative")
    cut = runs.index(SEPARATOR)
    sides = [_side([Path(run) for run in part], metric) for part in (runs[:cut], runs[cut + 1 :])]
    difference = stats.difference(*sides)
    result: dict[str, Any] = {
        "metric": metric,
        "margin": margin,
        "alpha": alpha,
        "a": {"runs": list(runs[:cut]), "by_seed": {str(seed): value for seed, value in sides[0].items()}},
        "b": {"runs": list(runs[cut + 1 :]), "by_seed": {str(seed): value for seed, value in sides[1].items()}},
        "verdict": "undecided",
    }
    if difference is None:
        return result
    bounds = stats.interval(difference, alpha)
    return result | {
        "difference": difference.mean,
        "low": bounds.low,
        "high": bounds.high,
        "seeds": difference.seeds,
        "paired": difference.paired,
        "p": stats.p_value(difference, margin),
        "verdict": stats.verdict(bounds, margin),
    }


def _side(runs: Sequence[Path], metric: str) -> dict[int, float]:
    if not runs:
        raise UsageError("compare: name runs on both sides of '--'")
    found: dict[int, float] = {}
    for run in runs:
        summary = store.read_stage(run / store.SUMMARY, remedy="finish it: nutshell run")
        if summary.get("overrides"):
            raise UsageError(f"{run}: was run with --set, as an exploration; only a recipe as it is can be compared")
        value = summary.get(metric)
        if not isinstance(value, int | float):
            numbers = ", ".join(name for name, each in summary.items() if isinstance(each, int | float))
            raise UsageError(f"{run}: has no number '{metric}'; it has {numbers}")
        if summary["seed"] in found:
            raise UsageError(f"{run}: seed {summary['seed']} twice on one side: the same run cannot count double")
        found[summary["seed"]] = float(value)
    return found
