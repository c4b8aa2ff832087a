"""How near the size model comes: every recipe packed with normal weights, beside what was predicted.

    python benchmarks/size_model.py [--out results/size_model.json] [--only NAME] [--most 40000000]
    python benchmarks/size_model.py trained RUN... [--out results/size_model_trained.json]

Weights are drawn normal, not trained; statistics are those of independent inputs. A recipe whose model has more weights
than `--most` is left to its twin. Its tokenizer is one of the bundled text, so that every vocabulary up to 2,048 is a
real one; for larger ones the short form is as long as 2.2 bytes a token, and the row says so.

`trained` takes runs that were packed by their own recipe, whose artifacts are as they are. A fitted precision ends at
the budget, whatever the weights, so each run is also packed by fixed ones: those of sp8192-loop35, round to nearest.
"""

import time
from pathlib import Path
from typing import Any

import torch
from cyclopts import App

from nutshell.artifact.config import PackConfig
from nutshell.artifact.estimate import TOKENIZER_BYTES_PER_TOKEN, predict_bytes
from nutshell.artifact.fit import fit
from nutshell.artifact.pack import Contents, Packer, matrices_of
from nutshell.config.catalog import installed_recipes
from nutshell.config.loader import decode
from nutshell.data.bundled import BundledCorpus
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.files import read_json, write_json
from nutshell.machine import processor, versions
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.pipeline import store
from nutshell.pipeline.weights import unpacked_model
from nutshell.quant.statistics import Statistics
from nutshell.recipe import Resolved, resolve

app = App(help=__doc__)
REAL_VOCAB = 2_048
FIXED = {
    "budget_bytes": 10**9,
    "rules": [
        {"roles": ["embedding"], "kind": "rtn", "grid": {"kind": "sd_clip", "bits": 8, "sigmas": 20.0}},
        {"roles": ["matrix", "projection"], "kind": "rtn", "grid": {"kind": "sd_clip", "bits": 6, "sigmas": 12.85}},
    ],
}


@app.default
def main(*, only: str | None = None, most: int = 40_000_000, out: Path | None = None) -> None:
    """Pack all recipes."""
    tokenizer = b""
    rows = []
    for name in [only] if only else [name for name, _ in installed_recipes()]:
        resolved = resolve(name)
        if not tokenizer:
            tokenizer = train_tokenizer(BundledCorpus(), vocab_size=REAL_VOCAB, sample_every=4).model_bytes
        rows.append(row := measure(resolved, tokenizer, most))
        print(row, flush=True)
        if out:
            write_json(out, {"processor": processor(), "versions": versions(), "weights": "normal", "rows": rows})


@app.command
def trained(*runs: Path, out: Path | None = None) -> None:
    """Compare the artifacts of trained runs with what was predicted of their recipes."""
    rows = []
    for run in runs:
        rows.append(row := measure_trained(run))
        print(row, flush=True)
        if out:
            write_json(out, {"processor": processor(), "versions": versions(), "weights": "trained", "rows": rows})


def measure_trained(run: Path) -> dict[str, Any]:
    """Compare one run's artifact, and one of fixed precision made of its weights."""
    recipe, receipt = store.read_recipe(run), read_json(run / store.RECEIPT)
    weights = unpacked_model(recipe.model, recipe.final_schedule, run / store.WEIGHTS).state_dict()
    with torch.device("meta"):
        table = ParamTable.of(LM(recipe.model, [recipe.final_schedule]))
    fixed = decode(FIXED, PackConfig, where="fixed precision")
    contents = Contents.of(
        weights,
        table,
        recipe=(run / store.RECIPE).read_text(),
        tokenizer=(run / store.TOKENIZER).read_bytes(),
    )
    own, of_fixed = (run / store.ARTIFACT).stat().st_size, len(Packer(contents, fixed).pack(None).content)
    predicted, predicted_fixed = (predict_bytes(recipe.model, pack) for pack in (recipe.pack, fixed))
    return {
        "recipe": receipt["name"],
        "weights": table.count(),
        "steps": receipt["steps"],
        "predicted": predicted,
        "real": own,
        "error": predicted / own - 1,
        "at_the_budget": own > 0.99 * recipe.pack.limit_bytes,
        "fixed_predicted": predicted_fixed,
        "fixed_real": of_fixed,
        "fixed_error": predicted_fixed / of_fixed - 1,
    }


def measure(resolved: Resolved, tokenizer: bytes, most: int) -> dict[str, Any]:
    """Pack one recipe with normal weights."""
    recipe = resolved.recipe
    predicted = predict_bytes(recipe.model, recipe.pack)
    with torch.device("meta"):
        table = ParamTable.of(LM(recipe.model, [recipe.final_schedule]))
    if table.count() > most:
        return {"recipe": resolved.name, "weights": table.count(), "predicted": predicted, "left_to": "its twin"}
    generator = torch.Generator().manual_seed(0)
    weights = {row.name: torch.randn(row.shape, generator=generator).mul_(0.02) for row in table}
    contents = Contents.of(weights, table, recipe=resolved.toml(), tokenizer=tokenizer)
    statistics = {
        matrix.name: Statistics(
            torch.eye(matrix.weight.shape[1], dtype=torch.float64),
            torch.ones(matrix.weight.shape[0], dtype=torch.float64),
        )
        for matrix in matrices_of(contents, recipe.pack, {})
        if matrix.rule.uses_statistics
    }
    start = time.perf_counter()
    fitted = fit(contents, recipe.pack, statistics=statistics)
    seconds = time.perf_counter() - start
    other_tokens = max(recipe.model.vocab_size - REAL_VOCAB, 0)
    real = len(fitted.packed.content) + round(TOKENIZER_BYTES_PER_TOKEN * other_tokens)
    return {
        "recipe": resolved.name,
        "weights": table.count(),
        "predicted": predicted,
        "real": real,
        "error": predicted / real - 1,
        "packings": max(len(fitted.points), 1),
        "seconds": seconds,
        "real_vocabulary": not other_tokens,
    }


if __name__ == "__main__":
    app()
