"""A study as a terminal shows it: its plan, how far it is, and what it has found."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nutshell.report.layout import new_facts, new_table, safe_text
from nutshell.study.analysis import Analysis, Comparison, Effect
from nutshell.units import format_seconds

VERDICT_STYLES = {"better": "good", "worse": "bad", "no larger difference": "", "undecided": "unsure"}


def plan_view(plan: Mapping[str, Any]) -> RenderableType:
    """The arms, and how many trials each has."""
    table = new_table("arm", "against", "trials", "hypothesis", words=["against", "hypothesis"])
    for arm in plan["arms"]:
        trials = sum(trial["arm"] == arm["arm"] for trial in plan["trials"])
        table.add_row(safe_text(arm["arm"]), safe_text(arm["against"] or ""), str(trials), safe_text(arm["hypothesis"]))
    return Group(safe_text(plan["about"]), "", table, "", Text(f"{len(plan['trials']):,} trials"))


def progress_view(rows: Sequence[Mapping[str, Any]], last: str) -> RenderableType:
    """How many trials of each arm are done."""
    table = new_table("arm", "done", "failed", "waiting")
    for row in rows:
        failed = Text(str(row["failed"]), "bad" if row["failed"] else "")
        table.add_row(safe_text(row["arm"]), str(row["done"]), failed, str(row["waiting"]))
    return Group(table, safe_text(last, "label"))


def analysis_view(found: Analysis) -> RenderableType:
    """Verdicts first, then the arms' means, then what the noise allows to tell."""
    decision = found.decision
    facts = new_facts(
        {
            "study": f"{found.name}: {found.about}",
            "trials": f"{found.done:,} of {found.trials:,} done",
            "decides by": f"{decision.metric}, margin {decision.margin:g}; any verdict of the {found.family} is false "
            f"with probability {decision.alpha:g} at most",
        }
    )
    many = len({(row.size, row.budget) for row in found.comparisons}) > 1
    at = ["at"] if many else []
    verdicts = new_table("arm", "against", *at, "difference", "interval", "verdict", words=["against", "at", "verdict"])
    equal = new_table("arm", "against", *at, "at equal steps", "at equal time", words=["against", "at"])
    for row in found.comparisons:
        names = [safe_text(name) for name in (row.arm, row.against, *([where(row.size, row.budget)] if many else []))]
        words = Text(verdict_in_words(row, decision.margin), VERDICT_STYLES[row.verdict])
        verdicts.add_row(*names, signed(row.effect.mean) if row.effect else "-", interval(row.effect), words)
        both = (row.at_equal_steps, row.at_equal_time)
        equal.add_row(*names, *(interval(effect, with_mean=True) for effect in both))
    arms = new_table("arm", *at, "seeds", decision.metric, "sd", "steps", "ms/step", words=["at"])
    for row in found.summaries:
        mean, sd = row.means.get(decision.metric), row.sds.get(decision.metric)
        arms.add_row(
            safe_text(row.arm),
            *([safe_text(where(row.size, row.budget))] if many else []),
            f"{row.seeds}" + (f", {row.failed} failed" if row.failed else ""),
            "-" if mean is None else f"{mean:.5g}",
            "-" if sd is None else f"{sd:.2g}",
            f"{row.steps:,.0f}",
            f"{row.ms_per_step:.1f}",
        )
    curves = Text("training loss where the shorter of two curves ends:", "label")
    return Group(facts, "", verdicts, "", curves, equal, "", arms, "", *(Text(line) for line in noise_lines(found)))


def noise_lines(found: Analysis) -> list[str]:
    """Say how large the noise is, and what it lets one tell."""
    return [
        f"noise of {row.arm} {where(row.size, row.budget)}: sd {row.sd:.2g} over {row.seeds} seeds "
        f"({row.low:.2g} to {row.high:.2g})"
        + (f"; a difference of {row.detectable:.2g} would probably be found" if row.detectable is not None else "")
        for row in found.noise
    ]


def verdict_in_words(row: Comparison, margin: float) -> str:
    """Say a verdict, and what is missing if there is none."""
    if row.verdict == "no larger difference":
        return f"no difference larger than {margin:g}"
    if row.verdict != "undecided":
        return row.verdict
    if row.effect is None:
        return "undecided: too few seeds"
    if row.hopeless:
        return "undecided: stopped, no verdict was likely"
    if row.seeds_needed is None:
        return "undecided: would need more seeds than 1,000"
    more = row.seeds_needed - row.effect.seeds
    if more <= 0:
        return "undecided"
    return f"undecided: {more} more seeds, {format_seconds(row.seconds_needed or 0.0)}"


def where(size: str, budget: str) -> str:
    """Name a cell."""
    return ", ".join(filter(None, (size, budget)))


def signed(value: float) -> str:
    """Write a difference."""
    return f"{value:+.5f}" if abs(value) < 100 else f"{value:+,.0f}"


def interval(effect: Effect | None, *, with_mean: bool = False) -> str:
    """Write an interval, if there is one."""
    if effect is None:
        return "-"
    bounds = f"{signed(effect.low)} to {signed(effect.high)}"
    return f"{signed(effect.mean)} ({bounds})" if with_mean else bounds


def runs_view(found: Mapping[str, Any]) -> RenderableType:
    """Two kinds of runs, and which is better."""
    table = new_table("", found["metric"] + " by seed", "mean", words=[found["metric"] + " by seed"])
    for side in ("a", "b"):
        values = found[side]["by_seed"]
        said = ", ".join(f"{seed}: {value:.5g}" for seed, value in values.items())
        table.add_row(side.upper(), safe_text(said), f"{sum(values.values()) / len(values):.5g}")
    if "difference" not in found:
        return Group(table, "", Text("undecided: too few seeds to say how much is chance", "unsure"))
    kind = "pairs of a seed" if found["paired"] else "seeds of the smaller side, unpaired"
    bounds = f"{signed(found['low'])} to {signed(found['high'])}"
    facts = new_facts(
        {
            "A less B": f"{signed(found['difference'])}, {bounds} with {1 - found['alpha']:.0%} confidence",
            "from": f"{found['seeds']} {kind}",
            "p": f"{found['p']:.2g}",
        }
    )
    words = {
        "better": "A is better",
        "worse": "A is worse",
        "no larger difference": f"no difference larger than {found['margin']:g}",
        "undecided": "undecided",
    }[found["verdict"]]
    return Group(table, "", facts, "", Text(words, VERDICT_STYLES[found["verdict"]]))
