"""The drawings of a report: the loss curve as an inline SVG, and the geometry of the virtual-layer diagram.

Bars are plain enough for the template. All colours are CSS variables of the page, so a drawing follows its light or
dark scheme, and all text is text. The same rows give the same bytes.
"""

import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from nutshell.report.stored import Description, MetricsRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib knows no CSS: each role is drawn in a colour that stands for it and is replaced in the text of the SVG.
_INK, _MUTED, _RULE, _ACCENT, _PALE = "#010101", "#020202", "#030303", "#040404", "#050505"
_CSS = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule", _ACCENT: "--accent", _PALE: "--accent-pale"}

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
    # matplotlib takes most of a second to import.
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"loss-{width}",
        "font.family": ["DejaVu Sans"],
        "font.size": 12,
        "path.simplify_threshold": 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": _RULE,
        "text.color": _INK,
        "axes.labelcolor": _MUTED,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        _draw_loss(figure.add_subplot(), rows, scored_bpb)
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

    axes.plot(seconds, loss, color=_PALE, linewidth=5, solid_capstyle="round")
    axes.set(xlim=(0, seconds[-1]), ylim=(lowest - 0.12 * span, highest + 0.08 * span))
    axes.set(xlabel="training time (s)", ylabel="training loss (nats/token)")
    axes.grid(axis="y", color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)

    estimate = axes.twinx()
    estimate.plot(seconds, bpb, color=_ACCENT, linewidth=1.4, solid_joinstyle="round")
    estimate.set(ylim=[ratio * limit for limit in axes.get_ylim()], ylabel="bpb estimate (bits/byte)")
    if scored_bpb:
        estimate.axhline(scored_bpb, color=_INK, linewidth=1, linestyle=(0, (5, 4)))
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
        axes.axvline(start, color=_MUTED, linewidth=1, linestyle=(0, (2, 2)))
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        place = {"xytext": (0, -4), "textcoords": "offset points", "va": "top", "ha": "center", "color": _MUTED}
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


class Visit(msgspec.Struct, frozen=True):
    """A box of the diagram: one visit to a block. `hue` numbers the repeated blocks; None for a block run once."""

    index: int
    block: int
    iteration: int
    hue: int | None
    x: float
    y: float


class DepthDiagram(msgspec.Struct, frozen=True):
    """Boxes and lines of the virtual-layer diagram, in CSS pixels: a column per block, a row per visit, downwards."""

    width: float
    height: float
    visits: list[Visit]
    column_x: dict[int, float]
    steps: list[str]
    skips: list[str]


_COLUMN, _ROW, _LEFT, _TOP = 36, 30, 40, 34
BOX_WIDTH, BOX_HEIGHT = 30, 20
_HUES = 8  # that many in report.css.j2


def depth_diagram(description: Description) -> DepthDiagram:
    """Place a model's visits to its blocks, the way from each to the next, and its skips as arcs at the right."""
    layers = description.virtual_layers
    blocks = sorted({layer.block for layer in layers})
    repeated = sorted({layer.block for layer in layers if layer.iteration > 0})
    column_x = {block: _LEFT + column * _COLUMN + _COLUMN / 2 for column, block in enumerate(blocks)}
    visits = [
        Visit(
            layer.index,
            layer.block,
            layer.iteration,
            repeated.index(layer.block) % _HUES if layer.block in repeated else None,
            column_x[layer.block],
            _TOP + row * _ROW + _ROW / 2,
        )
        for row, layer in enumerate(layers)
    ]
    rail = _LEFT + len(blocks) * _COLUMN + 4
    longest = max((target - source for source, target in description.skips), default=1)
    reach = {(source, target): 14 + 50 * (target - source) / longest for source, target in description.skips}
    by_index = {visit.index: visit for visit in visits}
    return DepthDiagram(
        width=rail + max(reach.values(), default=0) * 0.75 + 6,  # a cubic bulges by three quarters of its handles
        height=_TOP + len(layers) * _ROW + 4,
        visits=visits,
        column_x=column_x,
        steps=[_step(above, below) for above, below in itertools.pairwise(visits)],
        skips=[_arc(by_index[source], by_index[target], rail, out) for (source, target), out in reach.items()],
    )


def _step(above: Visit, below: Visit) -> str:
    start, end = above.y + BOX_HEIGHT / 2, below.y - BOX_HEIGHT / 2
    middle = (start + end) / 2
    return f"M{above.x:g} {start:g}C{above.x:g} {middle:g} {below.x:g} {middle:g} {below.x:g} {end:g}"


def _arc(source: Visit, target: Visit, rail: float, out: float) -> str:
    # Every row holds one box, so the way from a box to the rail and back is free.
    leave, arrive = source.x + BOX_WIDTH / 2, target.x + BOX_WIDTH / 2 + 4
    curve = f"C{rail + out:.1f} {source.y:g} {rail + out:.1f} {target.y:g} {rail:g} {target.y:g}"
    return f"M{leave:g} {source.y:g}H{rail:g}{curve}H{arrive:g}"
