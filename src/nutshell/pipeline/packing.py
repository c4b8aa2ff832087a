"""The packing stage: trained weights to an artifact under a byte budget, and the ledger of its bytes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch

from nutshell.artifact.config import PackConfig, TrainingText
from nutshell.artifact.fit import Progress, fit
from nutshell.artifact.ledger import build_ledger
from nutshell.artifact.pack import Contents, matrices_of
from nutshell.artifact.roles import next_percent, role_costs
from nutshell.data.dataset import Dataset
from nutshell.errors import BudgetError, RunError, UsageError
from nutshell.files import sha256_bytes, sha256_file, write_bytes, write_json
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.pipeline import store
from nutshell.pipeline.calibrating import calibrate_model
from nutshell.pipeline.weights import unpacked_model
from nutshell.quant.config import check_roles
from nutshell.quant.grids import OpenGrid
from nutshell.quant.statistics import Statistics
from nutshell.ranks import ALONE, Ranks, is_silence, joined_ranks, num_ranks
from nutshell.recipe import Recipe
from nutshell.train.checkpoint import read_tensors

# Others hear nothing of the first rank while it fits the artifact.
LONGEST_FIT = timedelta(hours=4)


@contextmanager
def packing_ranks() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, for a packing.

    Raises:
        RunError: one of them does not answer.
    """
    try:
        with joined_ranks(torch.device("cpu"), stage="pack", silence=LONGEST_FIT) as ranks:
            yield ranks
    except RuntimeError as error:
        if num_ranks() == 1 or not is_silence(error):
            raise
        first_line = str(error).partition("\n")[0]
        raise RunError(f"a process of this packing is gone ({first_line}); pack again, on any number") from error


def pack_run(
    run_dir: Path,
    data_dir: Path | None = None,
    *,
    budget_bytes: int | None = None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Pack a trained run under its recipe's budget, or another.

    All ranks calibrate; then the first one fits and writes, and the others wait. The artifact does not depend on how
    many they are.

    Args:
        run_dir: the run.
        data_dir: the data set that it was trained on, for a calibration that reads it.
        budget_bytes: instead of the recipe's.
        progress: is told how many packings of at most how many are done.
        ranks: the processes that pack together (`packing_ranks`).

    Returns:
        The ledger, on all ranks.

    Raises:
        RunError: the run is not trained, something in it never acted, or its weights are not those of its receipt.
        UsageError: the calibration needs a data set and there is none, or another one.
        BudgetError: nothing fits.
    """
    start = time.perf_counter()
    receipt = store.read_stage(run_dir / store.RECEIPT, remedy="train the run first")
    store.check_all_active(run_dir, receipt)
    recipe = store.read_recipe(run_dir)
    config = _under(recipe.pack, budget_bytes)
    weights, _ = read_tensors(run_dir / store.WEIGHTS)
    if sha256_file(run_dir / store.WEIGHTS) != receipt["weights_sha256"]:
        raise RunError(f"{run_dir / store.WEIGHTS}: not the weights that {store.RECEIPT} names; train the run again")
    with torch.device("meta"):
        table = ParamTable.of(LM(recipe.model, [recipe.final_schedule]))
    check_roles(config.rules, table)
    contents = Contents.of(
        weights,
        table,
        recipe=(run_dir / store.RECIPE).read_text(encoding="utf-8"),
        tokenizer=(run_dir / store.TOKENIZER).read_bytes(),
    )
    statistics = _calibrated(run_dir, recipe, contents, data_dir, ranks)
    if not ranks.is_first:
        return ranks.share({})
    calibrated = time.perf_counter()
    fitted = fit(contents, config, progress, statistics=statistics)
    packed = fitted.packed
    fit_seconds = time.perf_counter() - calibrated
    ledger = build_ledger(packed.container, len(packed.content))
    costs = role_costs(contents, table, config, packed.container, statistics)
    following = next_percent(costs, fitted)
    write_bytes(run_dir / store.ARTIFACT, packed.content)
    result = {
        "artifact": store.ARTIFACT,
        "artifact_bytes": len(packed.content),
        "artifact_sha256": sha256_bytes(packed.content),
        "weights_sha256": receipt["weights_sha256"],
        "budget_bytes": config.budget_bytes,
        "margin_bytes": config.margin_bytes,
        "unused_bytes": config.limit_bytes - len(packed.content),
        "precision": _precision(config, packed.precision.rate_bits if packed.precision else None),
        "packings": [point._asdict() for point in fitted.points],
        "roles": msgspec.to_builtins(costs),
        "next_percent": msgspec.to_builtins(following),
        "bytes_by_kind": ledger.bytes_by_kind(),
        "sections": [
            {"name": row.name, "kind": row.kind, "bytes": row.num_bytes, "bits_per_value": row.bits_per_value}
            for row in ledger.rows
        ],
        "calibration_seconds": calibrated - start if statistics else None,
        "fit_seconds": fit_seconds,
        "seconds": time.perf_counter() - start,
    }
    write_json(run_dir / store.LEDGER, result)
    return ranks.share(result)


def _under(config: PackConfig, budget_bytes: int | None) -> PackConfig:
    """Give the packing under another budget."""
    if budget_bytes is None:
        return config
    if budget_bytes <= config.margin_bytes:
        wanted = f"a number above the margin of {config.margin_bytes}" if config.margin_bytes else "a positive number"
        raise BudgetError(f"a budget of {budget_bytes} bytes: give {wanted}")
    return msgspec.structs.replace(config, budget_bytes=budget_bytes)


def _calibrated(
    run_dir: Path, recipe: Recipe, contents: Contents, data_dir: Path | None, ranks: Ranks
) -> Mapping[str, Statistics]:
    """Measure the statistics of the matrices whose rules use them."""
    calibration = recipe.pack.calibration
    if calibration is None:
        return {}
    dataset = None
    if isinstance(calibration, TrainingText):
        if data_dir is None:
            raise UsageError(f"pack: {run_dir} is calibrated on its training text; give the data set with --data DIR")
        dataset = Dataset.open(data_dir)
    names = [each.name for each in matrices_of(contents, recipe.pack, {}) if each.rule.uses_statistics]
    return calibrate_model(
        unpacked_model(recipe.model, recipe.final_schedule, run_dir / store.WEIGHTS),
        recipe,
        source="generated" if dataset is None else "training",
        tokens=calibration.tokens,
        names=names,
        dataset=dataset,
        metric=calibration.metric,
        ranks=ranks,
    )


def _precision(config: PackConfig, rate_bits: float | None) -> dict[str, float]:
    """Say each role's precision: bits of a code where the recipe fixes it, coded bits a weight where it was fitted."""
    return {
        role: (rate_bits or 0.0) + rule.grid.extra_bits if isinstance(rule.grid, OpenGrid) else rule.grid.code_bits
        for rule in config.rules
        for role in rule.roles
    }
