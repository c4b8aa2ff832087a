"""What a recipe is, without data or training."""

from dataclasses import asdict
from typing import Any

import torch

from nutshell.artifact.estimate import predict_bytes
from nutshell.model.accounting import count_params, flops_per_token
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.recipe import Resolved


def describe(resolved: Resolved) -> dict[str, Any]:
    """Tabulate virtual layers, skips, parameters, FLOPs a training token and predicted artifact bytes."""
    recipe = resolved.recipe
    schedule = recipe.final_schedule
    with torch.device("meta"):
        table = ParamTable.of(LM(recipe.model, recipe.schedules))
    return {
        "name": resolved.name,
        "about": recipe.about,
        "num_params": count_params(recipe.model, recipe.schedules),
        "params_by_role": table.count_by_role(),
        "flops_per_token": flops_per_token(recipe.model, schedule, recipe.train.seq_len),
        "predicted_artifact_bytes": predict_bytes(recipe.model, recipe.pack),
        "budget_bytes": recipe.pack.budget_bytes,
        "schedule": schedule.text,
        "virtual_layers": [asdict(visit) for visit in schedule.visits],
        "skips": [[skip.source.index, skip.target.index] for skip in schedule.skips],
        "phases": [
            {"until": phase.until, "schedules": [schedule.text for schedule in phase.schedules]}
            for phase in recipe.phases
        ],
        "overrides": resolved.overrides,
        "recipe": resolved.toml(),
    }
