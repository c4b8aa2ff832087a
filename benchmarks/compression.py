"""What compression wins.

    python benchmarks/compression.py --gaussian [--json] [--table] [--samples 2000000] [--out results/gaussian.json]

With `--gaussian`, on normal samples at 3 bits: the trellis of every number of states, and rounding to nearest, in real
bytes beside the rate-distortion bound; with `--table` at other rates and weights of the rate in the search too.
"""

import json as json_module
from pathlib import Path

from cyclopts import App

import compression_gaussian
from nutshell.files import write_json
from nutshell.machine import processor, versions

app = App(help=__doc__)


@app.default
def main(
    *, gaussian: bool, samples: int = 2_000_000, table: bool = False, json: bool = False, out: Path | None = None
) -> None:
    """Measure compression."""
    assert gaussian, "there is no other source yet"
    report = compression_gaussian.measure_all(samples, table=table)
    if out:
        write_json(out, {"processor": processor(), "versions": versions(), **report})
    if json:
        print(json_module.dumps(report))
    else:
        compression_gaussian.show(report)


if __name__ == "__main__":
    app()
