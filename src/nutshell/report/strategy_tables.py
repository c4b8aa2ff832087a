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
    """Draw bits per byte against seconds, as an SVG of `width` x `height` pixels; the same rows give the same bytes."""
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
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained", facecolor="white")
        _draw(figure.add_subplot(), found)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return svg.getvalue()


def _draw(axes: "Axes", found: Strategies) -> None:
    seconds = [row.scoring_seconds for row in found.rows]
    axes.scatter(seconds, [row.bpb for row in found.rows], color="#1f5fbf", s=36, zorder=3)
    for row, at in zip(found.rows, seconds, strict=True):
        place: dict[str, Any] = {"xytext": (6, 5), "textcoords": "offset points"}
        axes.annotate(row.strategy, (at, row.bpb), **place)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.12)
    axes.set(xlabel="seconds of scoring", ylabel=f"{found.metric} (bits/byte)")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _ranks(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"
