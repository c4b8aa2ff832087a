"""Run a recipe with several overrides, one whole run each, and store the summaries side by side.

    python benchmarks/sweep.py ARMS --data DIR [--recipe demo] [--runs runs/sweep] --out results/sweep.json

ARMS is a text file: a name, a colon, and overrides as for `nutshell run --set`, one arm a line. Runs are resumable, and
an arm that is done is not run again. For exploration: one seed an arm, compared at the recipe's own budget.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclopts import App

from nutshell.files import read_json, write_json

app = App(help=__doc__)
KEYS = ("bpb", "disjoint_bpb", "artifact_bytes", "num_params", "overrides", "seed", "processor", "seconds")


@app.default
def main(arms: Path, *, data: Path, out: Path, recipe: str = "demo", runs: Path = Path("runs/sweep")) -> None:
    """Run every arm of a file that is not done yet."""
    for line in arms.read_text(encoding="utf-8").splitlines():
        name, _, overrides = line.partition(":")
        if name.strip():
            _run(recipe, data, runs / name.strip(), overrides.split())
            write_json(out, [_result(path.parent) for path in sorted(runs.glob("*/summary.json"))])


def _run(recipe: str, data: Path, run_dir: Path, overrides: list[str]) -> None:
    settings = [argument for override in overrides for argument in ("--set", override)]
    command = [sys.executable, "-m", "nutshell", "run", recipe, "--data", str(data), "--out", str(run_dir), *settings]
    subprocess.run(command, check=True)


def _result(run_dir: Path) -> dict[str, Any]:
    summary = read_json(run_dir / "summary.json")
    receipt = read_json(run_dir / "run.json")
    last = json.loads((run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return {
        "arm": run_dir.name,
        **{key: summary[key] for key in KEYS},
        "precision": read_json(run_dir / "pack.json")["precision"],
        "steps": receipt["steps"],
        "tokens": receipt["tokens"],
        "data_digest": receipt["data_digest"],
        "last_train_bpb": last["bpb"],
    }


if __name__ == "__main__":
    app()
