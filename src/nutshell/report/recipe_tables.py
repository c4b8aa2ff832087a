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
            "parameters": f"{model.num_params:,}",
            "FLOPs per token": f"{model.flops_per_token:,.0f}",
            "predicted artifact": f"{model.predicted_artifact_bytes:,} bytes",
        }
    )
    roles = new_table("role", "parameters", "share")
    for role, number in sorted(model.params_by_role.items(), key=lambda entry: -entry[1]):
        roles.add_row(safe_text(role), f"{number:,}", share_of(number, model.num_params))
    tables = [roles, _parts_table(model), *([_phases_table(model.phases)] if len(model.phases) > 1 else [])]
    return Group(facts, *(part for table in [*tables, _layers(model.virtual_layers)] for part in ("", table)))


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
        "depth schedule",
        "virtual layers",
        "skips",
        "FLOPs per token",
        words=["of the budget", "depth schedule"],
    )
    for number, phase in enumerate(phases, start=1):
        lasts = f"{100 * phase.begin:g} to {100 * phase.until:g} %"
        for schedule in phase.schedules:
            counts = [
                f"{count:,.0f}" for count in (len(schedule.blocks), len(schedule.skips), schedule.flops_per_token)
            ]
            table.add_row(str(number), lasts, safe_text(schedule.schedule), *counts)
    return table


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
        skips = ", ".join(f"{skip.source} ({skip.key})" for skip in layer.skips_in)
        acting = [_list([text for at, text in row if at == seam]) for seam in seams]
        cells = [str(layer.index), str(layer.block), str(layer.iteration), skips, _weights(layer.weights), *acting]
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
