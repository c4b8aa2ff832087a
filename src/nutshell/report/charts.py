"""The loss curve of a report, as an inline SVG, and what other charts share with it.

All colours are CSS variables of the page, so the drawing follows its light or dark scheme, and all text is text. The
same rows give the same bytes. Bars are plain enough for the page's template; diagram.py draws the model.
"""

import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from nutshell.report.stored import MetricsRow
from nutshell.report.templates import HUES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib knows no CSS: each role is drawn in a colour that stands for it and is replaced in the text of the SVG.
INK, MUTED, RULE, ACCENT, PALE = "#010101", "#020202", "#030303", "#040404", "#050505"
SERIES = tuple(f"#0101{place:02x}" for place in range(2, 2 + HUES))
_CSS = {INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", PALE: "--accent-pale"}
_CSS |= {colour: f"--hue{place}" for place, colour in enumerate(SERIES)}

# The first steps fall from ln(vocabulary) so steeply that they would flatten all that follows; they leave by the top.
OPENING_FRAC = 0.04


class Phase(msgspec.Struct, frozen=True):
    """A stretch of training under the same depth schedules; the first and last of its rows say where it lies."""

    schedules: tuple[str, ...]
    first: MetricsRow
    last: MetricsRow


def split_phases(rows: Sequence[MetricsRow]) -> list[Phase]:
    """Group rows by phase; a phase's schedules stand in the order in which they first ran."""
    phases = []
    for _, group in itertools.groupby(rows, key=lambda row: row.phase):
        members = list(group)
        phases.append(Phase(tuple(dict.fromkeys(row.schedule for row in members)), members[0], members[-1]))
    return phases


def loss_curve(rows: Sequence[MetricsRow], *, scored_bpb: float | None, width: int, height: int) -> str:
    """Draw training loss and bpb estimate against seconds and steps, `width` x `height` CSS pixels.

    The two vertical axes are aligned at the run's typical ratio, so that the curves lie on each other as far as the
    estimate is the loss in other units. A dashed line marks the score that the artifact got.

    Shapes:
        rows: at least two, in order of time.
    """
    return inline_chart(lambda axes: _draw_loss(axes, rows, scored_bpb), name="loss", width=width, height=height)


def inline_chart(draw: "Callable[[Axes], object]", *, name: str, width: int, height: int) -> str:
    """Draw on axes of `width` x `height` CSS pixels, in this module's colours; give an SVG for a page's own text."""
    # matplotlib takes most of a second to import.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"{name}-{width}",
        "font.family": ["DejaVu Sans"],
        "font.size": 12,
        "path.simplify_threshold": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": RULE,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        draw(figure.add_subplot())
        svg = io.StringIO()
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(svg, format="svg", transparent=True, metadata=no_metadata)
    return _inline(svg.getvalue())


def _draw_loss(axes: "Axes", rows: Sequence[MetricsRow], scored_bpb: float | None) -> None:
    seconds = np.array([row.seconds for row in rows])
    loss = np.array([row.loss for row in rows])
    bpb = np.array([row.bpb for row in rows])
    ratio = float(np.median(bpb / loss))
    settled = loss[seconds >= seconds[0] + OPENING_FRAC * (seconds[-1] - seconds[0])]
    levels = [loss.min(), settled.max(), *([scored_bpb / ratio] if scored_bpb else [])]
    lowest, highest = min(levels), max(levels)
    span = max(highest - lowest, 1e-3)  # a run too short to learn has no range of its own

    axes.plot(seconds, loss, color=PALE, linewidth=5, solid_capstyle="round")
    axes.set(xlim=(0, seconds[-1]), ylim=(lowest - 0.12 * span, highest + 0.08 * span))
    axes.set(xlabel="training time (s)", ylabel="training loss (nats/token)")
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)

    estimate = axes.twinx()
    estimate.plot(seconds, bpb, color=ACCENT, linewidth=1.4, solid_joinstyle="round")
    estimate.set(ylim=[ratio * limit for limit in axes.get_ylim()], ylabel="bpb estimate (bits/byte)")
    if scored_bpb:
        estimate.axhline(scored_bpb, color=INK, linewidth=1, linestyle=(0, (5, 4)))
        place = {"xytext": (4, -4), "textcoords": "offset points", "va": "top"}
        estimate.annotate(f"score of the artifact: {scored_bpb:.4f}", (0, scored_bpb), **place)

    _mark_phases(axes, rows)
    for drawn in (axes, estimate, _add_steps(axes, rows)):
        drawn.tick_params(length=0)


def _mark_phases(axes: "Axes", rows: Sequence[MetricsRow]) -> None:
    phases = split_phases(rows)
    if len(phases) == 1:
        return
    starts = [axes.get_xlim()[0], *(phase.first.seconds for phase in phases[1:])]
    ends = [*starts[1:], axes.get_xlim()[1]]
    for start in starts[1:]:
        axes.axvline(start, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        place = {"xytext": (0, -4), "textcoords": "offset points", "va": "top", "ha": "center", "color": MUTED}
        axes.annotate(f"phase {number}", ((start + end) / 2, 1), xycoords=("data", "axes fraction"), **place)


def _add_steps(axes: "Axes", rows: Sequence[MetricsRow]) -> "Axes":
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    # Steps are unevenly spaced in time, since a deeper phase is slower: each tick stands at the second it was reached.
    steps = [row.step for row in rows]
    ticks = [tick for tick in MaxNLocator(5, integer=True).tick_values(0, steps[-1]) if steps[0] <= tick <= steps[-1]]
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks(np.interp(ticks, steps, [row.seconds for row in rows]), [f"{tick:,.0f}" for tick in ticks])
    top.set_xlabel("step", labelpad=6)
    return top


def _inline(svg: str) -> str:
    """Keep the drawing alone: no prologue, no page-wide style, no names that two drawings could share."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r"<svg [^>]*(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg)
    for colour, variable in _CSS.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"\s*\n\s*", " ", svg)
