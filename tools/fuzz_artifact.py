"""Damage artifacts by accident and by malice, and see that reading them only ever fails with one clear line.

    python tools/fuzz_artifact.py [--count 100000] [--seed 0] [--out results/fuzz.json]

Two artifacts: one with every coder, and one of a whole small model with every kind of section. Mutants are of the
sorts of tests/artifact_mutations.py: damaged bytes, the same under a new checksum, a manifest or a recipe with absurd
values, and compression bombs. Each is read to the end. It must give ArtifactError or a model, within `--seconds` of
processor time and with no more memory than is allowed for an artifact of that size; anything else ends this program
with the mutant's number, from which it can be made again.
"""

import collections
import json
import random
import resource
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from cyclopts import App

from nutshell.files import write_json
from nutshell.machine import processor, versions

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import artifact_mutations
import artifact_samples

app = App(help=__doc__)


class TooSlow(BaseException):
    """A mutant took longer than it may: no `except` of the package can take this for its own."""


@app.default
def main(*, count: int = 100_000, seed: int = 0, seconds: float = 30.0, out: Path | None = None) -> None:
    """Try `count` mutants."""
    samples = {"all coders": artifact_samples.all_coders(), "whole model": artifact_samples.whole_model()}
    for content in samples.values():
        assert artifact_mutations.outcome(content) == "read"
    signal.signal(signal.SIGPROF, _give_up)
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    before, start, slowest = _peak_bytes(), time.perf_counter(), 0.0
    mutants = artifact_mutations.endless_mutants(list(samples.values()), random.Random(seed))
    for number in range(count):
        sort, mutant = next(mutants)
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            result = artifact_mutations.outcome(mutant)
        except BaseException:
            print(f"mutant {number} of seed {seed} ({sort}, {len(mutant)} bytes)")
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.perf_counter() - began)
        assert sort != "damaged" or result != "read" or mutant in samples.values(), f"mutant {number}: not noticed"
        outcomes[sort]["read" if result == "read" else "ArtifactError"] += 1
    report = {
        "mutants": count,
        "seed": seed,
        "outcomes": {sort: dict(counts) for sort, counts in sorted(outcomes.items())},
        "slowest_seconds": slowest,
        "peak_memory_growth_bytes": _peak_bytes() - before,
        "seconds": time.perf_counter() - start,
        "artifact_bytes": {name: len(content) for name, content in samples.items()},
    }
    print(json.dumps(report))
    if out:
        write_json(out, {"processor": processor(), "versions": versions(), **report})


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    app()
