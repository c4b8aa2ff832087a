"""The drawings of a study's report: intervals beside one another, and trainings with the scatter of their seeds."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from nutshell.report.charts import ACCENT, INK, MUTED, RULE, SERIES, inline_chart
from nutshell.study.analysis import Cell, Comparison
from nutshell.study.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Axis = Literal["steps", "seconds"]
_ROW_PIXELS, _EDGE_PIXELS = 26, 70
# The opening falls so steeply that it would flatten the rest; a curve is drawn from this share of the budget on.
_FROM = 0.1


def forest(comparisons: Sequence[Comparison], *, margin: float, unit: str, width: int) -> str:
    """Draw the interval of each comparison on a line of its own, and the margin as a band, as an SVG."""
    drawn = [row for row in comparisons if row.effect is not None]

    def draw(axes: "Axes") -> None:
        if margin:
            axes.axvspan(-margin, margin, color=RULE, linewidth=0)
        axes.axvline(0, color=MUTED, linewidth=1)
        for place, row in enumerate(drawn):
            assert row.effect is not None
            colour = ACCENT if row.verdict != "undecided" else MUTED
            axes.plot([row.effect.low, row.effect.high], [place, place], color=colour, linewidth=2)
            axes.plot([row.effect.mean], [place], "o", color=colour, markersize=6)
            if row.published is not None:
                axes.plot([row.published], [place], "|", color=INK, markersize=12)
        axes.set_yticks(range(len(drawn)), [f"{row.arm} less {row.against}" for row in drawn])
        axes.set(ylim=(len(drawn) - 0.5, -0.5), xlabel=f"{unit}, less is better")
        axes.tick_params(length=0)

    return inline_chart(draw, name="forest", width=width, height=_EDGE_PIXELS + _ROW_PIXELS * len(drawn))


def curves(outcomes: Mapping[str, Sequence[Outcome]], cell: Cell, axis: Axis, *, width: int, height: int) -> str:
    """Draw each arm's training loss, the mean of its seeds with a band from least to most, as an SVG."""

    def draw(axes: "Axes") -> None:
        lowest, highest = np.inf, -np.inf
        for number, (arm, own) in enumerate(outcomes.items()):
            stop = min(getattr(outcome.curve, axis)[-1] for outcome in own)
            grid = np.linspace(_FROM * stop, stop, 100)
            values = np.array([np.interp(grid, getattr(each.curve, axis), each.curve.bpb) for each in own])
            colour = SERIES[number % len(SERIES)]
            style = "-" if number < len(SERIES) else "--"
            axes.plot(grid, values.mean(axis=0), style, color=colour, linewidth=1.4, label=arm)
            if len(own) > 1:
                axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
        room = 0.05 * max(highest - lowest, 1e-6)
        axes.set(ylim=(lowest - room, highest + room))
        said = {"steps": "steps", "seconds": "seconds of training, each step at its schedule's median"}[axis]
        axes.set(xlabel=said, ylabel="training loss (bits/byte)")
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=10, ncols=2)
        axes.tick_params(length=0)

    return inline_chart(draw, name=f"curves-{axis}-{cell.size}-{cell.budget}", width=width, height=height)
