"""What the weights of a run are worth before they are packed: those of the last step, and every average of them.

One disjoint pass over the validation text each, by document and in fp32, so that the packed choice can be judged; the
run's score is that of the artifact alone.
"""

import time
from pathlib import Path
from typing import Any

import torch

from nutshell.artifact.load import Loaded
from nutshell.config.loader import to_toml
from nutshell.data.tokenizer import Tokenizer
from nutshell.files import sha256_file, write_json
from nutshell.machine import num_threads
from nutshell.pipeline import store
from nutshell.pipeline.weights import unpacked_model, weight_files
from nutshell.predict.predictor import ModelPredictor
from nutshell.recipe import Recipe
from nutshell.score.frozen import score_documents
from nutshell.score.predictor import Progress
from nutshell.score.windows import WindowPlan
from nutshell.train.averaging import AverageName


def score_weights(run_dir: Path, data_dir: Path, *, packed_alone: bool = False, progress: Progress) -> dict[str, Any]:
    """Score each of a run's weights, or those alone that are packed, on the validation text; write what was found.

    Raises:
        RunError: the run is not trained, or its weights are not of its recipe.
    """
    start = time.perf_counter()
    torch.set_num_threads(num_threads())
    recipe = store.read_recipe(run_dir)
    tokenizer = Tokenizer((run_dir / store.TOKENIZER).read_bytes())
    paths = _scored_files(run_dir, recipe, packed_alone=packed_alone)
    models: dict[AverageName, Loaded] = {name: _load(recipe, tokenizer, path) for name, path in paths.items()}
    _, documents = store.open_documents(data_dir, next(iter(models.values())))
    found = {}
    for number, (name, loaded) in enumerate(models.items()):
        plan = WindowPlan(context=loaded.context, stride=loaded.context)
        score = score_documents(ModelPredictor(loaded), documents, plan, progress=_part(progress, number, len(paths)))
        found[name] = {"disjoint_bpb": score.bpb, "sha256": sha256_file(paths[name])}
    result = {"packed": recipe.train.packed_name, "weights": found, "seconds": time.perf_counter() - start}
    write_json(run_dir / store.AVERAGES, result)
    return result


def is_scored(run_dir: Path, recipe: Recipe, *, packed_alone: bool = False) -> bool:
    """Say whether these very weights have been scored, whatever others were, too."""
    path = run_dir / store.AVERAGES
    if not path.exists():
        return False
    found = store.read_stage(path, remedy="delete it").get("weights", {})
    files = _scored_files(run_dir, recipe, packed_alone=packed_alone)
    return all(found.get(name, {}).get("sha256") == sha256_file(file) for name, file in files.items())


def _scored_files(run_dir: Path, recipe: Recipe, *, packed_alone: bool) -> dict[AverageName, Path]:
    files = weight_files(run_dir, recipe)
    return {recipe.train.packed_name: files[recipe.train.packed_name]} if packed_alone else files


def _load(recipe: Recipe, tokenizer: Tokenizer, path: Path) -> Loaded:
    """Stand unpacked weights in for an artifact's."""
    model = unpacked_model(recipe.model, recipe.final_schedule, path)
    return Loaded(model, recipe.final_schedule, tokenizer, recipe.train.seq_len, recipe.score.stride, to_toml(recipe))


def _part(progress: Progress, number: int, parts: int) -> Progress:
    """Make one of several passes a part of one progress."""
    return lambda done, total: progress(number * total + done, parts * total)
