"""What compression wins.

    python benchmarks/compression.py --gaussian [--json] [--table] [--samples 2000000] [--out results/gaussian.json]
    python benchmarks/compression.py --run RUN_DIR --data DATA_DIR [--json] [--out results/compression_demo.json]
    python benchmarks/compression.py --train RUN_DIR --data DATA_DIR

With `--gaussian`, on normal samples at 3 bits: the trellis of every number of states, and rounding to nearest, in real
bytes beside the rate-distortion bound; with `--table` at other rates and weights of the rate in the search too. With
`--run`, on trained weights: ours beside the field's stack, and how many bytes fewer it takes at equal bits per byte;
what `--out` holds of the same weights already is not measured again, and `--documents`, `--states` and `--metrics` make
less of it. `--train` trains compression-8m.toml, for weights enough that matrices matter and headers do not.
"""

import json as json_module
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from cyclopts import App

import compression_gaussian
import compression_trained
from nutshell.errors import UsageError
from nutshell.files import read_json, write_json
from nutshell.machine import processor, versions
from nutshell.quant.calibrate import Metric

app = App(help=__doc__)
RECIPE = Path(__file__).with_name("compression-8m.toml")


@app.default
def main(
    *,
    gaussian: bool = False,
    run: Path | None = None,
    train: Path | None = None,
    data: Path | None = None,
    samples: int = 2_000_000,
    table: bool = False,
    documents: int | None = None,
    states: tuple[int, ...] = compression_trained.Settings.states,
    metrics: tuple[Metric, ...] = compression_trained.Settings.metrics,
    json: bool = False,
    out: Path | None = None,
) -> None:
    """Measure compression."""
    if [gaussian, run is not None, train is not None].count(True) != 1:
        raise UsageError("give one of --gaussian, --run RUN_DIR and --train RUN_DIR")
    if gaussian:
        report = compression_gaussian.measure_all(samples, table=table)
    elif data is None:
        raise UsageError("trained weights need the data set that they are trained on: give --data DIR")
    elif run is None:
        command = ("-m", "nutshell", "train", str(RECIPE), "--data", str(data), "--out", str(train))
        sys.exit(subprocess.call([sys.executable, *command]))
    else:
        known = read_json(out) if out and out.exists() else None
        settings = compression_trained.Settings(states=states, metrics=metrics, documents=documents)
        report = compression_trained.measure_all(run, data, settings, _tell, known=known, save=partial(_save, out))
    _save(out, report)
    if json:
        print(json_module.dumps(report))
    elif gaussian:
        compression_gaussian.show(report)
    else:
        compression_trained.show(report)


def _save(out: Path | None, report: dict[str, Any]) -> None:
    if out:
        write_json(out, {"processor": processor(), "versions": versions(), **report})


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
