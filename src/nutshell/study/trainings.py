"""Trainings that trials share: those that differ in packing and scoring alone are one, packed several times."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nutshell.artifact.config import PackConfig
from nutshell.config.digest import digest
from nutshell.config.loader import to_toml
from nutshell.data.dataset import Dataset
from nutshell.files import read_json, sha256_bytes, write_bytes
from nutshell.pipeline import store
from nutshell.pipeline.averages import is_scored, score_weights
from nutshell.pipeline.run import train_run
from nutshell.pipeline.training import Training
from nutshell.pipeline.weights import weight_files
from nutshell.recipe import Recipe, Resolved
from nutshell.report.terminal import Terminal
from nutshell.score.config import ScoreConfig
from nutshell.study.config import TRAINED
from nutshell.study.plan import Trial

TRAININGS, RUN = "trainings", "run"
_LOCK = "lock"


def training_recipe(recipe: Recipe) -> Recipe:
    """Leave of a recipe what its training depends on; the rules of packing only where it trains through them."""
    trains_through_packing = recipe.train.qat is not None or recipe.train.penalties
    pack = recipe.pack if trains_through_packing else PackConfig(budget_bytes=1, rules=())
    return msgspec.structs.replace(recipe, about="", pack=pack, score=ScoreConfig(stride=1), prove=None)


def provide_training(study: str, trial: Trial, data_dir: Path, folder: Path, *, terminal: Terminal) -> dict[str, Any]:
    """Train for a trial, unless another one has, and put what came out into the trial's own run directory.

    Args:
        study: Its name.
        trial: The trial.
        data_dir: The data set.
        folder: The study's; its trainings are in a folder beside the trials.
        terminal: What to say it on.

    Returns:
        The receipt.
    """
    recipe = training_recipe(trial.recipe)
    dataset = Dataset.open(data_dir)
    name = sha256_bytes(msgspec.json.encode([digest(recipe), trial.seed, dataset.digest]))[:16]
    shared, run_dir = folder / TRAININGS / name, folder / trial.folder / RUN
    needed = (store.RECEIPT, store.AVERAGES) if TRAINED in trial.measures else (store.RECEIPT,)
    if not all((run_dir / each).exists() for each in needed):
        with alone(shared, terminal):
            training = Training(Resolved(f"{study}/{trial.arm}", recipe, {}), dataset, shared, seed=trial.seed)
            train_run(training, resume=(shared / store.CHECKPOINT).exists(), terminal=terminal)
            if TRAINED in trial.measures and not is_scored(shared, recipe, packed_alone=True):
                with terminal.stage(f"measure {TRAINED}", unit="tokens read") as advance:
                    score_weights(shared, data_dir, packed_alone=True, progress=advance)
        run_dir.mkdir(parents=True, exist_ok=True)
        weights = [path.name for path in weight_files(shared, recipe).values()]
        for name in (*weights, store.TOKENIZER, store.METRICS, store.AVERAGES):
            if (shared / name).exists():  # averages are scored where that is wanted
                shutil.copyfile(shared / name, run_dir / name)
        write_bytes(run_dir / store.RECIPE, to_toml(trial.recipe).encode())
        write_bytes(run_dir / store.RECEIPT, (shared / store.RECEIPT).read_bytes())  # last: then all is there
    return read_json(run_dir / store.RECEIPT)


def trained_bpb(run_dir: Path) -> float:
    """Give what the weights are worth that will be packed."""
    averages = read_json(run_dir / store.AVERAGES)
    return averages["weights"][averages["packed"]]["disjoint_bpb"]


@contextmanager
def alone(folder: Path, terminal: Terminal) -> Iterator[None]:
    """Hold a folder against other processes: trials that share a training, or one whose runner was killed.

    The lock goes with the process, however that ends; whoever waited finds what the other one did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            terminal.note(f"{folder}: another process is at it; waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
