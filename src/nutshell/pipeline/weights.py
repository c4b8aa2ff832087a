"""A run's weights before they are packed: which files hold them, and the model that has them."""

from pathlib import Path

import torch

from nutshell.errors import RunError
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.pipeline import store
from nutshell.recipe import Recipe
from nutshell.train.averaging import AverageName, name_of
from nutshell.train.checkpoint import read_tensors


def weight_files(run_dir: Path, recipe: Recipe) -> dict[AverageName, Path]:
    """Name the files of a run's weights, the packed ones first."""
    packed = recipe.train.packed_name
    names: list[AverageName] = ["last", *map(name_of, recipe.train.averages)]
    found: dict[AverageName, Path] = {packed: run_dir / store.WEIGHTS}
    for name in names:
        found.setdefault(name, run_dir / f"weights-{name}.safetensors")
    return found


def unpacked_model(config: ModelConfig, schedule: DepthSchedule, path: Path) -> LM:
    """Build the model of one schedule with the weights of a file, which may hold more: what other schedules used.

    Raises:
        RunError: a weight is missing or has another shape.
    """
    tensors, _ = read_tensors(path)
    with torch.device("meta"):
        model = LM(config, [schedule])
    chosen = {}
    for row in ParamTable.of(model):
        if row.name not in tensors or tuple(tensors[row.name].shape) != row.shape:
            raise RunError(f"{path}: not the weights of this model: '{row.name}' is missing or of another shape")
        chosen[row.name] = tensors[row.name].float()
    model.load_state_dict(chosen, assign=True)
    return model.requires_grad_(requires_grad=False).eval()
