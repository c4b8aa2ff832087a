"""Strategies of scoring beside one another: what each wins, and what it costs in time."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Group, RenderableType

from nutshell.report.layout import new_facts, new_table, safe_text
from nutshell.units import format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINE_PIXELS, _MOST_LETTERS = 16, 110


class StrategyRow(msgspec.Struct, frozen=True):
    """One strategy; `gain` is the share of bits that it saves of the first one's."""

    strategy: str
    bpb: float
    gain: float
    seconds: float
    loading_seconds: float
    tokens_per_second: float

    @property
    def scoring_seconds(self) -> float:
        """Seconds of scoring alone."""
        return self.seconds - self.loading_seconds


class Strategies(msgspec.Struct, frozen=True):
    """What `nutshell score --compare` found."""

    metric: str
    tokens: int
    bytes: int
    documents: int
    processor: str
    threads: int
    ranks: int
    rows: list[StrategyRow]


def strategies_view(result: Mapping[str, Any]) -> RenderableType:
    """A table of the strategies, in the order in which they ran."""
    found = msgspec.convert(result, Strategies)
    facts = new_facts(
        {
            "text": f"{found.documents:,} documents, {found.tokens:,} tokens, {found.bytes:,} bytes",
            "machine": f"{found.processor}, {found.threads} threads, {_ranks(found.ranks)}",
        }
    )
    table = new_table("strategy", found.metric, "gain", "seconds", "tokens/s")
    for row in found.rows:
        speed = f"{row.tokens_per_second:,.0f}"
        gain = f"{row.gain:+.2%}" if row is not found.rows[0] else "-"
        table.add_row(safe_text(row.strategy), f"{row.bpb:.5f}", gain, format_seconds(row.scoring_seconds), speed)
    return Group(facts, "", table)


def strategies_chart(result: Mapping[str, Any], *, width: int, height: int) -> str:
    """Draw bits per byte against seconds, `width` x `height` pixels, and a line for each strategy below, as an SVG.

    The same rows give the same bytes.
    """
    # matplotlib takes most of a second to import.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    found = msgspec.convert(result, Strategies)
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "strategies",
        "font.family": ["DejaVu Sans"],
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        names_height = _LINE_PIXELS * len(found.rows)
        size = (width / 72, (height + names_height) / 72)
        figure = Figure(figsize=size, dpi=72, layout="constrained", facecolor="white")
        upper, lower = figure.subplots(2, 1, height_ratios=[height, names_height])
        _draw(upper, lower, found)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return svg.getvalue()


def _draw(axes: "Axes", names: "Axes", found: Strategies) -> None:
    """Mark each strategy by its number; the numbers stand below with their names, which are too long for a chart."""
    seconds = [row.scoring_seconds for row in found.rows]
    axes.scatter(seconds, [row.bpb for row in found.rows], color="#1f5fbf", s=36, zorder=3)
    by_height = sorted(range(len(found.rows)), key=lambda place: found.rows[place].bpb)
    for rank, place in enumerate(by_height):  # neighbours on other sides of their points
        where: dict[str, Any] = {"xytext": (6, 4) if rank % 2 else (-6, -4), "textcoords": "offset points"}
        ends: dict[str, Any] = {"ha": "left", "va": "bottom"} if rank % 2 else {"ha": "right", "va": "top"}
        axes.annotate(str(place + 1), (seconds[place], found.rows[place].bpb), **where, **ends)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.1, y=0.12)
    axes.set(xlabel="seconds of scoring", ylabel=f"{found.metric} (bits/byte)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    names.axis("off")
    for number, row in enumerate(found.rows, 1):
        line = row.strategy if len(row.strategy) <= _MOST_LETTERS else f"{row.strategy[:_MOST_LETTERS]} ..."
        names.text(
            0, 1 - (number - 0.5) / len(found.rows), f"{number}  {line}", va="center", fontsize=10, in_layout=False
        )


def _ranks(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
