"""The packing stage: trained weights to an artifact under a byte budget, and the ledger of its bytes."""

import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from nutshell.artifact.config import PackConfig
from nutshell.artifact.fit import Progress, fit
from nutshell.artifact.ledger import build_ledger
from nutshell.artifact.pack import Contents
from nutshell.errors import BudgetError, RunError
from nutshell.files import sha256_bytes, sha256_file, write_bytes, write_json
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.pipeline import store
from nutshell.quant.grids import OpenGrid
from nutshell.train.checkpoint import read_tensors


def pack_run(run_dir: Path, *, budget_bytes: int | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Pack a trained run under its recipe's budget, or another.

    Raises:
        RunError: the run is not trained, or its weights are not those of its receipt.
        BudgetError: nothing fits.
    """
    start = time.perf_counter()
    receipt = store.read_stage(run_dir / store.RECEIPT, remedy="train the run first")
    recipe = store.read_recipe(run_dir)
    if budget_bytes is not None and budget_bytes <= 0:
        raise BudgetError(f"a budget of {budget_bytes} bytes: give a positive number")
    config = recipe.pack if budget_bytes is None else msgspec.structs.replace(recipe.pack, budget_bytes=budget_bytes)
    weights, _ = read_tensors(run_dir / store.WEIGHTS)
    if sha256_file(run_dir / store.WEIGHTS) != receipt["weights_sha256"]:
        raise RunError(f"{run_dir / store.WEIGHTS}: not the weights that {store.RECEIPT} names; train the run again")
    with torch.device("meta"):
        table = ParamTable.of(LM(recipe.model, [recipe.final_schedule]))
    contents = Contents.of(
        weights,
        table,
        recipe=(run_dir / store.RECIPE).read_text(encoding="utf-8"),
        tokenizer=(run_dir / store.TOKENIZER).read_bytes(),
    )
    packed = fit(contents, config, progress)
    ledger = build_ledger(packed.container, len(packed.content))
    write_bytes(run_dir / store.ARTIFACT, packed.content)
    result = {
        "artifact": store.ARTIFACT,
        "artifact_bytes": len(packed.content),
        "artifact_sha256": sha256_bytes(packed.content),
        "weights_sha256": receipt["weights_sha256"],
        "budget_bytes": config.budget_bytes,
        "precision": _precision(config, packed.rate_bits),
        "bytes_by_kind": ledger.bytes_by_kind(),
        "sections": [
            {"name": row.name, "kind": row.kind, "bytes": row.num_bytes, "bits_per_value": row.bits_per_value}
            for row in ledger.rows
        ],
        "seconds": time.perf_counter() - start,
    }
    write_json(run_dir / store.LEDGER, result)
    return result


def _precision(config: PackConfig, rate_bits: float | None) -> dict[str, float]:
    """Say each role's precision: bits of a code where the recipe fixes it, coded bits a weight where it was fitted."""
    return {
        role: (rate_bits or 0.0) + rule.grid.extra_bits if isinstance(rule.grid, OpenGrid) else rule.grid.code_bits
        for rule in config.rules
        for role in rule.roles
    }
