"""What a recipe is, without data or training."""

from collections.abc import Sequence
from typing import Any

import torch

from nutshell.artifact.estimate import predict_bytes
from nutshell.config.struct import kind_of
from nutshell.model.accounting import count_params, flops_by_part, flops_per_token, params_by_part
from nutshell.model.config import AtVisit, ModelConfig
from nutshell.model.depth import DepthSchedule, VirtualLayer
from nutshell.model.effects import active_at
from nutshell.model.lm import LM
from nutshell.model.seams import Place
from nutshell.nn.params import ParamTable
from nutshell.quant.config import check_roles
from nutshell.recipe import Recipe, Resolved
from nutshell.train.phases import Phase


def describe(resolved: Resolved) -> dict[str, Any]:
    """Tabulate virtual layers, skips, parameters, FLOPs a training token and predicted artifact bytes.

    Virtual layers and skips are those of the schedule that is packed and scored; `phases` has all that are trained.
    Parameters are those of all schedules that are trained; `num_packed_params` counts those of the packed one alone.
    `parts` splits parameters and FLOPs by seam and kind.

    Raises:
        RecipeError: a rule of packing is for weights that the model does not have.
    """
    recipe = resolved.recipe
    model, schedule = recipe.model, recipe.final_schedule
    with torch.device("meta"):
        table = ParamTable.of(LM(model, recipe.schedules))
    check_roles(recipe.pack.rules, table)
    parts = _parts(recipe)
    return {
        "name": resolved.name,
        "about": recipe.about,
        "num_params": sum(part["params"] for part in parts),
        "num_packed_params": count_params(model, [schedule]),
        "params_by_role": table.count_by_role(),
        "parts": parts,
        "flops_per_token": sum(part["flops_per_token"] for part in parts),
        "predicted_artifact_bytes": predict_bytes(model, recipe.pack),
        "budget_bytes": recipe.pack.budget_bytes,
        "schedule": schedule.text,
        "inputs": [kind_of(kind) for kind in model.inputs],
        "virtual_layers": _virtual_layers(model, recipe.schedules, schedule),
        "skips": _edges(schedule),
        "join": kind_of(model.depth.join) if schedule.skips else None,
        "norms": {"attention": model.norms.attention, "mlp": model.norms.mlp},
        "logits": [kind_of(kind) for kind in model.logits],
        "phases": _phases(recipe),
        "overrides": resolved.overrides,
        "recipe": resolved.toml(),
    }


def _parts(recipe: Recipe) -> list[dict[str, Any]]:
    """Say what each part costs: parameters for all schedules, FLOPs a training token under the final one."""
    params = params_by_part(recipe.model, recipe.schedules)
    flops = flops_by_part(recipe.model, recipe.final_schedule, recipe.train.seq_len)
    return [
        {"seam": part.seam, "kind": part.kind, "params": number, "flops_per_token": flops.get(part, 0.0)}
        for part, number in params.items()
    ]


def _phases(recipe: Recipe) -> list[dict[str, Any]]:
    """Say of each phase between which fractions of the budget it lasts, its batch, and what its steps draw from."""
    begins = [0.0, *(phase.until for phase in recipe.phases)]
    return [
        {
            "begin": begin,
            "until": phase.until,
            "batch_size": phase.batch_size,
            "seq_len": phase.seq_len,
            "quantized": phase.quantized,
            "schedules": [_summary(recipe, phase, schedule) for schedule in phase.schedules],
        }
        for begin, phase in zip(begins, recipe.phases, strict=False)
    ]


def _summary(recipe: Recipe, phase: Phase, schedule: DepthSchedule) -> dict[str, Any]:
    return {
        "schedule": schedule.text,
        "blocks": [visit.block for visit in schedule.visits],
        "skips": _edges(schedule),
        "flops_per_token": flops_per_token(recipe.model, schedule, phase.seq_len),
    }


def _edges(schedule: DepthSchedule) -> list[list[int]]:
    return [[skip.source.index, skip.target.index] for skip in schedule.skips]


def _virtual_layers(
    model: ModelConfig, schedules: Sequence[DepthSchedule], schedule: DepthSchedule
) -> list[dict[str, Any]]:
    """Give a row for each virtual layer: what it receives, whose weights it runs, and what acts there."""
    places = model.places(schedules)
    return [
        {
            "index": visit.index,
            "block": visit.block,
            "iteration": visit.iteration,
            "skips_in": [{"source": skip.source.index, "key": skip.key} for skip in schedule.skips_into(visit)],
            "weights": _weights(model, schedule, visit),
            "residual": model.residual.form_in(visit.block),
            "techniques": _techniques(model, places[visit.block], visit),
        }
        for visit in schedule.visits
    ]


def _weights(model: ModelConfig, schedule: DepthSchedule, visit: VirtualLayer) -> dict[str, str]:
    """Say of each branch whether other virtual layers of the schedule run its matrices too."""
    repeated = schedule.num_visits(visit.block) > 1
    return {branch: "shared" if repeated and model.depth.untied != branch else "own" for branch in ("attention", "mlp")}


def _techniques(model: ModelConfig, place: Place, visit: VirtualLayer) -> list[dict[str, Any]]:
    """List what acts at a visit, in the order of the seams; `per_visit` where its weights are this visit's own."""
    return [
        {
            "seam": found.seam.removeprefix("residual."),
            "kind": kind_of(found.kind),
            "value": found.kind.value_at(visit),
            "per_visit": _is_per_visit(found.kind, place, found.place),
        }
        for found in active_at(model, place, visit)
    ]


def _is_per_visit(kind: AtVisit, place: Place, built_for: Place) -> bool:
    """Tell from the number of parameters whether every visit of a block that is repeated has its own."""
    if place.num_visits == 1:
        return False
    if built_for is not place:  # one copy of an untied branch
        return kind.num_params(built_for) > 0
    return kind.num_params(place) > kind.num_params(Place(place.dims, place.block, num_visits=1))
