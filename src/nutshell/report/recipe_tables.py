"""Recipes as people read them in a terminal: which there are, what one describes, or how two differ."""

import itertools
from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nutshell.report.layout import Fitting, new_facts, new_table, safe_text, share_of
from nutshell.report.stored import Active, Description, PlannedPhase, VirtualLayer

# What acts in a virtual layer, in the order of a table's columns.
_SEAMS = ("residual", "entry", "modulate", "values", "heads")


def recipes_view(recipes: Mapping[str, str]) -> RenderableType:
    """The installed recipes and their claims, with a line between families: names that begin with another word."""
    table = new_facts({})
    for _, family in itertools.groupby(recipes.items(), key=_family):
        if table.row_count:
            table.add_row()
        for name, about in family:
            table.add_row(safe_text(name, "label"), safe_text(about))
    return table


def _family(recipe: tuple[str, str]) -> str:
    return "".join(itertools.takewhile(str.isalpha, recipe[0]))


class Difference(msgspec.Struct, frozen=True):
    """A setting that differs, by dotted path; None where a recipe does not have it."""

    path: str
    a: Any
    b: Any


class PhaseWork(msgspec.Struct, frozen=True):
    """What a recipe gets done in a phase; steps and layer-steps are parts of all those of A."""

    schedules: list[str]
    layers: float
    time_share: float
    steps: float
    layer_steps: float


class Work(msgspec.Struct, frozen=True):
    """What a recipe gets done: steps, layer-steps and tokens relative to those of A, and in numbers if known."""

    phases: list[PhaseWork]
    relative: dict[str, float]
    absolute: dict[str, float] | None


class EqualTime(msgspec.Struct, frozen=True):
    """What two recipes get done in the same training time, and what was assumed of the time of a step."""

    assumed: str
    a: Work
    b: Work


class Comparison(msgspec.Struct, frozen=True):
    """Two recipes side by side."""

    a: Description
    b: Description
    differences: list[Difference]
    equal_time: EqualTime


def describe_view(description: Mapping[str, Any]) -> RenderableType:
    """The shape and cost of a model: facts, parameters by role and by part, phases, virtual layers."""
    model = msgspec.convert(description, Description)
    facts = new_facts(
        {
            "recipe": model.name,
            "depth schedule": model.schedule,
            "virtual layers": f"{len(model.virtual_layers)} over {len({v.block for v in model.virtual_layers})} blocks",
            "skips": f"{len(model.skips)}, joined by {model.join}" if model.skips else "none",
            "inputs": _list(model.inputs),
            "norms": ", ".join(f"{branch} {place}" for branch, place in model.norms.items()),
            "logits": _list(model.logits),
            "parameters": _parameters(model),
            "FLOPs per token": f"{model.flops_per_token:,.0f}",
            "predicted artifact": f"{model.predicted_artifact_bytes:,} bytes",
        }
    )
    roles = new_table("role", "parameters", "share")
    for role, number in sorted(model.params_by_role.items(), key=lambda entry: -entry[1]):
        roles.add_row(safe_text(role), f"{number:,}", share_of(number, model.num_params))
    tables = [roles, _parts_table(model), *([_phases_table(model.phases)] if len(model.phases) > 1 else [])]
    return Group(facts, *(part for table in [*tables, _layers(model.virtual_layers)] for part in ("", table)))


def _parameters(model: Description) -> str:
    """Count the parameters; where phases train some that are not packed, those that are as well."""
    if model.num_packed_params in (None, model.num_params):
        return f"{model.num_params:,}"
    return f"{model.num_params:,} trained, {model.num_packed_params:,} packed"


def compare_view(comparison: Mapping[str, Any]) -> RenderableType:
    """Two recipes: the settings in which they differ, sizes and costs, work in the same time, virtual layers."""
    pair = msgspec.convert(comparison, Comparison)
    names = new_facts({"A": pair.a.name, "B": pair.b.name})
    assumed = safe_text(f"assumed: {pair.equal_time.assumed}", "label")
    return Group(
        *(names, "", _differences_table(pair.differences), "", _sizes_table(pair.a, pair.b)),
        *("", _work_table(pair.equal_time), assumed, "", _layers_side_by_side(pair.a, pair.b)),
    )


def _differences_table(differences: Sequence[Difference]) -> RenderableType:
    if not differences:
        return Text("no setting differs")
    table = new_table("setting", "A", "B", words=["A", "B"])
    for found in differences:
        table.add_row(*map(safe_text, (found.path, _setting(found.a), _setting(found.b))))
    return table


def _setting(value: Any) -> str:
    """Write a setting much as a recipe does; a component that has no settings by its kind alone."""
    if value is None:
        return "absent"
    if isinstance(value, dict):
        kind = [value["kind"]] if "kind" in value else []
        return " ".join([*kind, *(f"{key}={_setting(item)}" for key, item in value.items() if key != "kind")])
    if isinstance(value, list | tuple):
        return f"[{', '.join(_setting(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value) or '""'


def _sizes_table(a: Description, b: Description) -> Table:
    table = new_table("", "A", "B", "B - A", "B / A - 1")
    sizes = {
        "virtual layers": lambda model: len(model.virtual_layers),
        "blocks": lambda model: len({layer.block for layer in model.virtual_layers}),
        "skips": lambda model: len(model.skips),
        "parameters": lambda model: model.num_params,
        "FLOPs per token": lambda model: model.flops_per_token,
        "predicted artifact bytes": lambda model: model.predicted_artifact_bytes,
    }
    for name, size in sizes.items():
        ours, theirs = size(a), size(b)
        change = f"{100 * (theirs / ours - 1):+.2f} %" if ours else "-"
        table.add_row(name, f"{ours:,.0f}", f"{theirs:,.0f}", f"{theirs - ours:+,.0f}", change)
    return table


def _work_table(equal_time: EqualTime) -> Table:
    """A row for each phase, then the sums relative to A, and the sums in numbers where they are known."""
    columns = ["depth schedule", "layers a step", "of the time", "steps", "layer-steps", "tokens"]
    table = new_table("in the same time, relative to A", *columns, words=["depth schedule"])
    for name, work in (("A", equal_time.a), ("B", equal_time.b)):
        for number, phase in enumerate(work.phases, start=1):
            numbers = [f"{phase.layers:g}", f"{100 * phase.time_share:.1f} %", f"{phase.steps:.4f}"]
            schedules = safe_text(" or ".join(phase.schedules))
            table.add_row(f"{name}, phase {number}", schedules, *numbers, f"{phase.layer_steps:.4f}", "")
        layers = sum(phase.layers * phase.steps for phase in work.phases) / work.relative["steps"]
        sums = [f"{work.relative[key]:.4f}" for key in ("steps", "layer_steps", "tokens")]
        table.add_row(f"{name}, in all", "", f"{layers:.2f}", "100.0 %", *sums)
        if work.absolute is not None:
            counts = [f"{work.absolute[key]:,.0f}" for key in ("steps", "layer_steps", "tokens")]
            table.add_row(f"{name}, in numbers", "", "", "", *counts)
    return table


def _layers_side_by_side(a: Description, b: Description) -> Table:
    columns = [f"{name}: {column}" for name in ("A", "B") for column in ("block", "iteration", "skip from")]
    table = new_table("layer", *columns, words=[column for column in columns if column.endswith("skip from")])
    rows = itertools.zip_longest(a.virtual_layers, b.virtual_layers)
    for index, pair in enumerate(rows):
        cells = [cell for layer in pair for cell in (_place(layer) if layer else ("", "", ""))]
        table.add_row(str(index), *map(safe_text, cells))
    return table


def _place(layer: VirtualLayer) -> tuple[str, str, str]:
    skips = ", ".join(f"{skip.source} ({skip.key})" for skip in layer.skips_in)
    return str(layer.block), str(layer.iteration), skips


def _parts_table(model: Description) -> Table:
    table = new_table("part", "kind", "parameters", "share", "FLOPs per token", "share", words=["kind"])
    for part in model.parts:
        cost = (part.params, model.num_params), (part.flops_per_token, model.flops_per_token)
        cells = [
            cell for number, whole in cost for cell in (_count(number), share_of(number, whole) if number else "-")
        ]
        table.add_row(safe_text(part.seam), safe_text(part.kind), *cells)
    return table


def _phases_table(phases: Sequence[PlannedPhase]) -> Table:
    table = new_table(
        "phase",
        "of the budget",
        "batch",
        "depth schedule",
        "virtual layers",
        "skips",
        "FLOPs per token",
        words=["of the budget", "batch", "depth schedule"],
    )
    for number, phase in enumerate(phases, start=1):
        lasts = f"{100 * phase.begin:g} to {100 * phase.until:g} %"
        for schedule in phase.schedules:
            counts = [
                f"{count:,.0f}" for count in (len(schedule.blocks), len(schedule.skips), schedule.flops_per_token)
            ]
            table.add_row(str(number), lasts, _batch(phase), safe_text(schedule.schedule), *counts)
    return table


def _batch(phase: PlannedPhase) -> str:
    if phase.batch_size is None or phase.seq_len is None:
        return "-"
    return f"{phase.batch_size:,} x {phase.seq_len:,}{', quantized' if phase.quantized else ''}"


def _layers(layers: Sequence[VirtualLayer]) -> RenderableType:
    """One row a virtual layer; where that is too wide, what acts in every one is said once, above."""
    everywhere = set.intersection(*(set(_acting(layer)) for layer in layers))
    whole = _layers_table(layers, leaving_out=set())
    said = ", ".join(f"{text} ({seam})" for seam, text in _acting(layers[0]) if (seam, text) in everywhere)
    shorter = Group(safe_text(f"in every layer: {said}"), "", _layers_table(layers, leaving_out=everywhere))
    own = any(active.per_visit for layer in layers for active in layer.techniques)
    legend = [Text("* with weights of this visit alone", "label")] if own else []
    return Group(Fitting(whole, shorter) if everywhere else whole, *legend)


def _layers_table(layers: Sequence[VirtualLayer], *, leaving_out: Set[tuple[str, str]]) -> Table:
    """A column for each seam that has something to show."""
    shown = [[said for said in _acting(layer) if said not in leaving_out] for layer in layers]
    seams = [seam for seam in _SEAMS if any(seam == acting for row in shown for acting, _ in row)]
    words = ["skip from", "weights", *seams]
    table = new_table("layer", "block", "iteration", *words, words=words)
    for layer, row in zip(layers, shown, strict=True):
        acting = [_list([text for at, text in row if at == seam]) for seam in seams]
        cells = [str(layer.index), *_place(layer), _weights(layer.weights), *acting]
        table.add_row(*map(safe_text, cells))
    return table


def _acting(layer: VirtualLayer) -> list[tuple[str, str]]:
    """What acts in a virtual layer: seam and words."""
    return [("residual", layer.residual), *((active.seam, _active(active)) for active in layer.techniques)]


def _active(active: Active) -> str:
    value = "" if active.value is None else f" {active.value:.4f}"
    return f"{active.kind}{'*' if active.per_visit else ''}{value}"


def _weights(weights: Mapping[str, str]) -> str:
    """Say it in one word where both branches do alike."""
    own = [branch for branch, whose in weights.items() if whose == "own"]
    return "shared" if not own else "own" if len(own) == len(weights) else f"shared, own {_list(own)}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "-"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number else "-"
