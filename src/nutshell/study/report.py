"""The report of a study: one HTML file that needs nothing else, and the same tables as Markdown for a repository.

Both are made from an analysis, which is made from outcomes: the same outcomes give the same bytes.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from nutshell import __version__
from nutshell.report.templates import environment
from nutshell.study.analysis import Analysis, Cell, Summary, cells_of
from nutshell.study.charts import curves, forest
from nutshell.study.config import BYTES
from nutshell.study.outcome import Outcome
from nutshell.study.plan import Plan
from nutshell.study.tables import interval, noise_lines, signed, verdict_in_words, where

Rows = list[tuple[str, ...]]


class Part(NamedTuple):
    """A table of the report, with what there is to say before it."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: Rows


class CellCharts(NamedTuple):
    """The drawings of one cell."""

    name: str
    forest: Markup | None
    by_step: Markup | None
    by_time: Markup | None


def study_html(plan: Plan, analysis: Analysis, outcomes: Sequence[Outcome], *, command: str) -> str:
    """Fill the page with a study."""
    template = environment().get_template("study.html.j2")
    return template.render(
        analysis=analysis,
        lede=lede(analysis),
        decision=decision_words(analysis).replace("`", ""),
        parts=parts(analysis),
        charts=[_charts(analysis, cell, outcomes) for cell in cells_of(plan)],
        noise=noise_lines(analysis),
        machine=_machines(outcomes),
        command=command,
        version=__version__,
    )


def study_markdown(plan: Plan, analysis: Analysis, *, command: str) -> str:
    """Write a study as Markdown."""
    lines = [f"# {plan.name}", "", analysis.about, "", lede(analysis), "", decision_words(analysis), ""]
    for part in parts(analysis):
        lines += [f"## {part.title}", "", *([part.note, ""] if part.note else []), *_markdown_table(part), ""]
    lines += ["## Noise", "", *(f"- {line}" for line in noise_lines(analysis)), "", f"Made by `{command}`.", ""]
    return "\n".join(lines)


def lede(analysis: Analysis) -> str:
    """Say how far the study is and how its comparisons came out."""
    verdicts = [row.verdict for row in analysis.comparisons]
    counts = [
        f"{verdicts.count(verdict)} {verdict}"
        for verdict in ("better", "worse", "no larger difference", "undecided")
        if verdict in verdicts
    ]
    return f"{analysis.done:,} of {analysis.trials:,} trials done; of {len(verdicts)} comparisons {', '.join(counts)}."


def decision_words(analysis: Analysis) -> str:
    """Say how verdicts come about."""
    decision, family = analysis.decision, analysis.family
    return (
        f"Verdicts are about `{decision.metric}`, with a margin of {decision.margin:g}: an interval that lies below it "
        f"is better, above it worse, within it no larger difference. Intervals are simultaneous: with probability "
        f"{1 - decision.alpha:g} or more, all {family} hold the true difference, so that no verdict is false."
    )


def parts(analysis: Analysis) -> list[Part]:
    """List the tables."""
    found = [_verdicts(analysis), _equal(analysis), _arms(analysis)]
    found += [part for part in (_others(analysis), _published(analysis), _visits(analysis)) if part.rows]
    if analysis.ladder:
        found.append(_ladder(analysis))
    return found


def _verdicts(analysis: Analysis) -> Part:
    rows = [
        (
            row.arm,
            row.against,
            where(row.size, row.budget),
            signed(row.effect.mean) if row.effect else "-",
            interval(row.effect),
            "-" if row.effect is None else f"{row.effect.seeds}{'' if row.effect.paired else ' (unpaired)'}",
            "-" if row.p_adjusted is None else f"{row.p_adjusted:.2g}",
            verdict_in_words(row, analysis.decision.margin),
            row.hypothesis,
        )
        for row in analysis.comparisons
    ]
    header = ("Arm", "Against", "At", "Difference", "Interval", "Seeds", "p, adjusted", "Verdict", "Hypothesis")
    return Part("Verdicts", "", header, rows)


def _equal(analysis: Analysis) -> Part:
    rows = [
        (
            row.arm,
            row.against,
            where(row.size, row.budget),
            interval(row.at_equal_steps, with_mean=True),
            interval(row.at_equal_time, with_mean=True),
        )
        for row in analysis.comparisons
    ]
    note = (
        "Training loss, bits per byte, where the shorter of two curves ends. Schedules of rates follow the budget, so "
        "under a budget of steps an arm that is cut off at equal time has not finished its decay: there the budget of "
        "seconds is the fair comparison, where the study has one."
    )
    return Part("Equal steps and equal time", note, ("Arm", "Against", "At", "At equal steps", "At equal time"), rows)


def _arms(analysis: Analysis) -> Part:
    names = list(dict.fromkeys(name for row in analysis.summaries for name in row.means))
    rows = [
        (
            row.arm,
            where(row.size, row.budget),
            f"{row.seeds}{f', {row.failed} failed' if row.failed else ''}",
            *(_value(row, name) for name in names),
            f"{row.num_params:,}",
            f"{row.steps:,.0f}",
            f"{row.ms_per_step:.1f}",
            row.schedule,
        )
        for row in analysis.summaries
    ]
    header = ("Arm", "At", "Seeds", *names, "Parameters", "Steps", "ms/step", "Schedule")
    return Part(
        "Arms", "Means over the seeds, with the standard deviation of one. Scores are not proved.", header, rows
    )


def _value(row: Summary, name: str) -> str:
    if name not in row.means:
        return "-"
    mean, sd = row.means[name], row.sds[name]
    digits = 0 if name == BYTES else 5
    return f"{mean:,.{digits}f}" + (f" ({sd:,.{digits}f})" if sd is not None else "")


def _others(analysis: Analysis) -> Part:
    names = list(dict.fromkeys(name for row in analysis.comparisons for name in row.others))
    rows = [
        (
            row.arm,
            row.against,
            where(row.size, row.budget),
            *(interval(row.others.get(name), with_mean=True) for name in names),
        )
        for row in analysis.comparisons
        if row.others
    ]
    note = "Differences on what the study does not decide by, at the same level each: explanations, not verdicts."
    return Part("Other measures", note, ("Arm", "Against", "At", *names), rows)


def _published(analysis: Analysis) -> Part:
    rows = [
        (
            row.arm,
            row.against,
            where(row.size, row.budget),
            signed(row.published),
            signed(row.effect.mean) if row.effect else "-",
            interval(row.effect),
            _sign(row.same_sign, row.effect is not None and row.effect.low <= 0 <= row.effect.high),
        )
        for row in analysis.comparisons
        if row.published is not None
    ]
    note = "Signs are compared, never scores: text, size, budget and machine are others."
    return Part(
        "Published figures", note, ("Arm", "Against", "At", "Published", "Here", "Interval", "The same sign"), rows
    )


def _sign(same: bool | None, holds_zero: bool) -> str:
    if same is None:
        return "-"
    return ("yes" if same else "no") + (", but the interval holds 0" if holds_zero else "")


def _visits(analysis: Analysis) -> Part:
    shown = [row for row in analysis.summaries if row.visits]
    most = max((len(row.visits) for row in shown), default=0)
    rows = [
        (
            row.arm,
            where(row.size, row.budget),
            *(f"{each:.4f}" for each in row.visits),
            *[""] * (most - len(row.visits)),
        )
        for row in shown
    ]
    note = "Relative error of the stream that packing makes, after each virtual layer."
    return Part("By visit", note, ("Arm", "At", *(str(place) for place in range(most))), rows)


def _blanks(most: int, there: Sequence[float]) -> list[str]:
    return [""] * (most - len(there))


def _ladder(analysis: Analysis) -> Part:
    rows = [
        (
            rung.small,
            rung.large,
            rung.budget,
            str(rung.arms),
            f"{rung.correlation:.2f}",
            f"{rung.low:.2f} to {rung.high:.2f}",
        )
        for rung in analysis.ladder
    ]
    note = (
        "Rank correlation (Spearman) of the arms between sizes, its interval over resampled seeds: what a small run is "
        "worth."
    )
    return Part("Transfer", note, ("Small", "Large", "Budget", "Arms", "Correlation", "Interval"), rows)


def _charts(analysis: Analysis, cell: Cell, outcomes: Sequence[Outcome]) -> CellCharts:
    own = [row for row in analysis.comparisons if (row.size, row.budget) == cell]
    by_arm: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if (outcome.size, outcome.budget) == cell:
            by_arm.setdefault(outcome.arm, []).append(outcome)
    has_effect = any(row.effect for row in own)
    unit = "bytes" if analysis.decision.metric == BYTES else "bits per byte"
    return CellCharts(
        name=where(*cell),
        forest=Markup(forest(own, margin=analysis.decision.margin, unit=unit, width=960)) if has_effect else None,
        by_step=Markup(curves(by_arm, cell, "steps", width=480, height=340)) if by_arm else None,
        by_time=Markup(curves(by_arm, cell, "seconds", width=480, height=340)) if by_arm else None,
    )


def _machines(outcomes: Iterable[Outcome]) -> str:
    found = dict.fromkeys(f"{outcome.processor}, torch {outcome.versions['torch']}" for outcome in outcomes)
    return "; ".join(found)


def _markdown_table(part: Part) -> list[str]:
    lines = [part.header, ("---",) * len(part.header), *part.rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
