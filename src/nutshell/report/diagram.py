"""The picture of a model's depth: blocks, visits, skips, where techniques act, and the schedules of the phases.

A panel for each depth schedule, in the order of training; the one that is packed and scored comes last. In a panel a
column is a block and a row a visit, downwards; skips are arcs at the right. Beside the last panel stands a column for
each technique.
The report shows the picture in its page; `nutshell describe --diagram` writes it as a file of its own.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import msgspec

from nutshell.printable import show_controls
from nutshell.report.stored import Active, Description, VirtualLayer
from nutshell.report.templates import HUES, LIGHT, environment

# CSS pixels.
PITCH, ROW = 26.0, 26.0
BOX_WIDTH, BOX_HEIGHT = 22.0, 17.0
LINE = 16.0
_GUTTER = 44.0  # the numbers of the rows
_CAPTIONS = 44.0  # the numbers of the columns, and what they number
_GAP = 30.0  # between panels
_NEAR, _APART = 10.0, 7.0  # how far the shortest skip's arc stands out, and every longer one beyond the one before
_MARK_WIDTH, _VALUE_WIDTH = 24.0, 42.0
_LETTER = 6.5  # a letter's width, roughly; what is written is given room by it
_LONGEST_TEXT = 44

Edge = tuple[int, int]


class Box(msgspec.Struct, frozen=True):
    """A visit to a block. `hue` numbers the blocks that some schedule repeats; None for a block run once."""

    index: int
    block: int
    hue: int | None
    x: float
    y: float
    words: str


class Panel(msgspec.Struct, frozen=True):
    """One schedule: its boxes, the way from each to the next, and its skips with the tips of their arrows."""

    heading: list[str]
    x: float
    right: float
    bottom: float
    column_x: dict[int, float]
    hues: dict[int, int]
    boxes: list[Box]
    steps: list[str]
    skips: list[str]
    tips: list[tuple[float, float]]


class Mark(msgspec.Struct, frozen=True):
    """A technique at a visit: the number by which it acts, a diamond if its weights are the visit's own, or a dot."""

    y: float
    value: str
    per_visit: bool


class Column(msgspec.Struct, frozen=True):
    """A technique, and the visits of the last panel at which it acts."""

    seam: str
    kind: str
    x: float
    marks: list[Mark]


class Diagram(msgspec.Struct, frozen=True):
    """Everything in the picture, in CSS pixels; `top` is where the first row begins."""

    title: str
    label: str
    width: float
    height: float
    top: float
    marks_right: float
    notes_top: float
    panels: list[Panel]
    columns: list[Column]
    notes: list[str]


class _Plan(msgspec.Struct, frozen=True):
    """What a panel shows."""

    heading: list[str]
    visits: list[tuple[int, int]]
    skips: list[tuple[int, int]]


def draw_depth(description: Description, *, standalone: bool) -> str:
    """Draw a model as SVG.

    Args:
        description: what to draw.
        standalone: make a file that needs nothing else, not even a viewer that knows CSS variables; else an element of
            a page that has the style.
    """
    box = {"width": BOX_WIDTH, "height": BOX_HEIGHT, "row": ROW, "gutter": _GUTTER}
    template = environment().get_template("depth.svg.j2")
    svg = template.render(depth=depth_diagram(description), box=box, standalone=standalone)
    if standalone:
        for name, colour in LIGHT.items():
            svg = svg.replace(f"var(--{name})", colour)
    return svg


def depth_diagram(description: Description) -> Diagram:
    """Place everything that the picture shows."""
    plans = _plans(description)
    names = _technique_names(description.virtual_layers)
    lines = max(len(plan.heading) for plan in plans)
    top = max(LINE * lines + _CAPTIONS, *(math.ceil(_slanted(*name)) + 24.0 for name in names), 0.0)
    hues = {block: number % HUES for number, block in enumerate(_repeated_blocks(plans))}
    panels: list[Panel] = []
    for plan in plans:
        panels.append(_panel(plan, panels[-1].right + _GAP if panels else 0.0, top, hues))
    columns = list(_columns(description.virtual_layers, names, panels[-1].boxes, panels[-1].right))
    notes = _notes(description, columns)
    named = [column.x + _slanted(column.seam, column.kind) for column in columns]
    marks_right = columns[-1].x + _VALUE_WIDTH / 2 if columns else panels[-1].right
    bottom = max(panel.bottom for panel in panels) + 8
    return Diagram(
        title=show_controls(description.name),
        label=_label(description),
        width=max([marks_right, *named, *(_LETTER * len(note) for note in notes)]) + 4,
        height=bottom + LINE * len(notes) + 8,
        top=top,
        marks_right=marks_right,
        notes_top=bottom,
        panels=panels,
        columns=columns,
        notes=notes,
    )


def _plans(description: Description) -> list[_Plan]:
    """One panel for each schedule that is trained, the final one last; alike schedules share a panel."""
    final = ([layer.block for layer in description.virtual_layers], description.skips, description.schedule)
    found: dict[str, tuple[list[int], list[Edge], str]] = {}
    when: dict[str, list[str]] = {}
    for number, phase in enumerate(description.phases, start=1):
        for schedule in phase.schedules:
            key = repr((schedule.blocks, schedule.skips))
            found[key] = (schedule.blocks, schedule.skips, schedule.schedule)
            drawn = f", one of {len(phase.schedules)}" if len(phase.schedules) > 1 else ""
            span = f"phase {number}: {100 * phase.begin:g} to {100 * phase.until:g} %{drawn}"
            when.setdefault(key, []).append(span)
    last = repr(final[:2])
    order = [*(key for key in found if key != last), last]
    found[last] = final
    named = len(description.phases) > 1
    return [_plan(*found[key], when.get(key, []) if named else []) for key in order]


def _plan(blocks: Sequence[int], skips: Sequence[Edge], text: str, when: Sequence[str]) -> _Plan:
    counts = f"{_number(len(blocks), 'virtual layer')}, {_number(len(skips), 'skip')}"
    seen: dict[int, int] = {}
    visits = []
    for block in blocks:
        visits.append((block, seen.get(block, 0)))
        seen[block] = seen.get(block, 0) + 1
    return _Plan([*when, _shorten(show_controls(text)), counts], visits, list(skips))


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


def _repeated_blocks(plans: Sequence[_Plan]) -> list[int]:
    return sorted({block for plan in plans for block, iteration in plan.visits if iteration > 0})


def _panel(plan: _Plan, x: float, top: float, hues: dict[int, int]) -> Panel:
    blocks = sorted({block for block, _ in plan.visits})
    column_x = {block: x + _GUTTER + (place + 0.5) * PITCH for place, block in enumerate(blocks)}
    boxes = [
        Box(
            index=index,
            block=block,
            hue=hues.get(block),
            x=column_x[block],
            y=top + (index + 0.5) * ROW,
            words=_box_words(index, block, iteration, plan.skips),
        )
        for index, (block, iteration) in enumerate(plan.visits)
    ]
    rail = x + _GUTTER + len(blocks) * PITCH + 4
    lengths = sorted({target - source for source, target in plan.skips})
    reach = [_NEAR + _APART * lengths.index(target - source) for source, target in plan.skips]
    drawn = rail + max(reach, default=0.0)
    return Panel(
        heading=plan.heading,
        x=x,
        right=max(drawn, *(x + _LETTER * len(line) for line in plan.heading)),
        bottom=top + len(boxes) * ROW,
        column_x=column_x,
        hues={block: hues[block] for block in blocks if block in hues},
        boxes=boxes,
        steps=[_step(above, below) for above, below in itertools.pairwise(boxes)],
        skips=[
            _arc(boxes[source], boxes[target], rail, out)
            for (source, target), out in zip(plan.skips, reach, strict=True)
        ],
        tips=[(boxes[target].x + BOX_WIDTH / 2, boxes[target].y) for _, target in plan.skips],
    )


def _box_words(index: int, block: int, iteration: int, skips: Sequence[Edge]) -> str:
    sources = [str(source) for source, target in skips if target == index]
    received = f"; skip from {', '.join(sources)}" if sources else ""
    return f"virtual layer {index}: block {block}, iteration {iteration}{received}"


def _step(above: Box, below: Box) -> str:
    start, end = above.y + BOX_HEIGHT / 2, below.y - BOX_HEIGHT / 2
    middle = (start + end) / 2
    return f"M{above.x:g} {start:g}C{above.x:g} {middle:g} {below.x:g} {middle:g} {below.x:g} {end:g}"


def _arc(source: Box, target: Box, rail: float, out: float) -> str:
    # Every row holds one box, so the way from a box to the rail and back is free.
    leave, arrive = source.x + BOX_WIDTH / 2, target.x + BOX_WIDTH / 2 + 5
    handle = rail + out / 0.75  # a cubic bulges by three quarters of its handles
    curve = f"C{handle:.1f} {source.y:g} {handle:.1f} {target.y:g} {rail:g} {target.y:g}"
    return f"M{leave:g} {source.y:g}H{rail:g}{curve}H{arrive:g}"


def _technique_names(layers: Sequence[VirtualLayer]) -> list[tuple[str, str]]:
    """List what has a column: by the order of the seams, each in the recipe's order."""
    found = {name: None for layer in layers for name in _acting(layer)}
    seams = list(dict.fromkeys(["weights", "residual", "entry", "modulate", "values", "heads", *(s for s, _ in found)]))
    return sorted(found, key=lambda name: seams.index(name[0]))


def _acting(layer: VirtualLayer) -> dict[tuple[str, str], Active | None]:
    """What to mark at a visit, by seam and name."""
    marks: dict[tuple[str, str], Active | None] = {}
    own = [branch for branch, whose in layer.weights.items() if whose == "own"]
    if len(own) == 1:
        marks["weights", f"own {own[0]}"] = None
    if layer.residual != "sequential":
        marks["residual", layer.residual] = None
    return marks | {(active.seam, active.kind): active for active in layer.techniques}


def _slanted(seam: str, kind: str) -> float:
    """Width, and height, of a name that rises at 45 degrees."""
    return _LETTER * len(f"{seam} {kind}") * math.sqrt(0.5)


def _columns(
    layers: Sequence[VirtualLayer], names: Sequence[tuple[str, str]], boxes: Sequence[Box], x: float
) -> Iterator[Column]:
    before = ""
    for name in names:
        acting = [
            (box, _acting(layer)[name]) for box, layer in zip(boxes, layers, strict=True) if name in _acting(layer)
        ]
        marks = [
            Mark(
                y=box.y,
                value="" if active is None or active.value is None else f"{active.value:.3f}",
                per_visit=active is not None and active.per_visit,
            )
            for box, active in acting
        ]
        width = _VALUE_WIDTH if any(mark.value for mark in marks) else _MARK_WIDTH
        x += 0 if name[0] == before else 8
        before = name[0]
        yield Column(show_controls(name[0]), show_controls(name[1]), x + width / 2, marks)
        x += width


def _notes(description: Description, columns: Sequence[Column]) -> list[str]:
    once = {"inputs": description.inputs, "logits": description.logits}
    said = [f"{seam}: {', '.join(kinds)}" for seam, kinds in once.items() if kinds]
    if set(description.norms.values()) - {"pre"}:
        said.append(f"norms: {', '.join(f'{branch} {place}' for branch, place in description.norms.items())}")
    if description.join:
        said.append(f"skips join by {description.join}")
    lines = ["; ".join(said)] if said else []
    if any(mark.per_visit for column in columns for mark in column.marks):
        lines.append("diamond: weights of this visit alone")
    return [show_controls(line) for line in lines]


def _label(description: Description) -> str:
    order = [layer.block for layer in description.virtual_layers]
    words = (
        f"{_number(len(set(order)), 'block')} run as {_number(len(order), 'virtual layer')}, in the order "
        f"{' '.join(map(str, order))}"
    )
    if not description.skips:
        return f"{words}."
    edges = ", ".join(f"{source} to {target}" for source, target in description.skips)
    return f"{words}; skips between virtual layers {edges}."
