"""Damage artifacts by accident and by malice, and see that reading them only ever fails with one clear line.

    python tools/fuzz_artifact.py [--count 100000] [--seed 0] [--workers 1] [--out results/fuzz.json]

Two artifacts: one with every coder, and one of a whole small model with every kind of section. First each place of
their manifests, payloads' fronts and recipe has absurd values by turns; then come random mutants of the sorts of
tests/artifact_mutations.py: damaged bytes, the same under a new checksum, other manifests, models, recipes and
tokenizers, and compression bombs. Each is read to the end. It must give ArtifactError or a model, within `--seconds`
of processor time and `--megabytes` beyond what was in use before; anything else ends this program with the mutant's
number, from which it can be made again. A run that was broken off goes on from its report, if neither the code nor the
artifacts are others by now.
"""

import ast
import hashlib
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from cyclopts import App

import nutshell
from nutshell.files import write_json
from nutshell.machine import processor, versions
from nutshell.memory import peak_process_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import artifact_mutations
import artifact_samples

app = App(help=__doc__)
CHUNK = 500


class TooSlow(BaseException):
    """A mutant took longer than it may: no `except` of the package can take this for its own."""


class Tried(NamedTuple):
    """What came of some mutants in a row: outcomes by sort, the slowest, processor seconds, growth of memory."""

    outcomes: dict[str, dict[str, int]]
    slowest: tuple[float, int, str]
    processor_seconds: float
    grown_bytes: int


@app.default
def main(
    *,
    count: int = 100_000,
    seed: int = 0,
    seconds: float = 30.0,
    megabytes: int = 1024,
    workers: int = 1,
    out: Path | None = None,
) -> None:
    """Try `count` mutants, `workers` at a time."""
    samples = {"all coders": artifact_samples.all_coders(), "whole model": artifact_samples.whole_model()}
    for content in samples.values():
        assert artifact_mutations.outcome(content) == "read"
    report = _begun(out, seed, samples)
    chunks = [range(first, min(first + CHUNK, count)) for first in range(report["mutants"], count, CHUNK)]
    work = partial(_try, list(samples.values()), seed, seconds)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for chunk, tried in zip(chunks, pool.map(work, chunks), strict=True):
            assert tried.grown_bytes < megabytes * 10**6, f"mutants {chunk}: {tried.grown_bytes} bytes more in use"
            report["mutants"] = chunk.stop
            report["processor_seconds"] += tried.processor_seconds
            report["slowest"] = max(list(report["slowest"]), list(tried.slowest))
            report["peak_memory_growth_bytes"] = max(report["peak_memory_growth_bytes"], tried.grown_bytes)
            for sort, counts in tried.outcomes.items():
                total = report["outcomes"].setdefault(sort, {})
                report["outcomes"][sort] = {key: total.get(key, 0) + counts[key] for key in counts}
            if out:
                write_json(out, report)
    print(json.dumps(report))


def _try(contents: list[bytes], seed: int, seconds: float, numbers: range) -> Tried:
    """Read some mutants, each within its time."""
    signal.signal(signal.SIGPROF, _give_up)
    outcomes: dict[str, dict[str, int]] = {}
    slowest, total, before = (0.0, 0, ""), 0.0, _first_peak_bytes()
    for number in numbers:
        sort, mutant = _numbered(contents, seed, number)
        took, result = _timed(mutant, seconds, f"mutant {number} of seed {seed} ({sort}, {len(mutant)} bytes)")
        assert sort != "damaged" or result != "read" or mutant in contents, f"mutant {number}: not noticed"
        counts = outcomes.setdefault(sort, {"ArtifactError": 0, "read": 0})
        counts["read" if result == "read" else "ArtifactError"] += 1
        slowest, total = max(slowest, (took, number, sort)), total + took
    return Tried(outcomes, slowest, total, peak_process_bytes() - before)


def _begun(out: Path | None, seed: int, samples: dict[str, bytes]) -> dict[str, Any]:
    """Give the report of a run that was broken off, or an empty one."""
    facts = {
        "seed": seed,
        "code_sha256": _code_sha256(),
        "artifacts": {name: [len(content), hashlib.sha256(content).hexdigest()] for name, content in samples.items()},
    }
    if out and out.exists():
        found = json.loads(out.read_text())
        if facts.items() <= found.items():
            return found
    return {
        "processor": processor(),
        "versions": versions(),
        **facts,
        "mutants": 0,
        "outcomes": {},
        "slowest": [0.0, 0, ""],
        "processor_seconds": 0.0,
        "peak_memory_growth_bytes": 0,
    }


def _code_sha256() -> str:
    """Digest all code that may read an artifact, and that makes mutants; what is no code, such as a comment, is not."""
    root = Path(nutshell.__file__).parent
    read_by = ("artifact", "codec", "config", "data", "model", "nn", "quant")
    files = sorted(path for folder in read_by for path in (root / folder).rglob("*.py"))
    makers = [Path(module.__file__) for module in (artifact_mutations, artifact_samples) if module.__file__]
    code = (ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in [*files, *makers])
    return hashlib.sha256("\n".join(code).encode()).hexdigest()


def _numbered(contents: list[bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Make a mutant by its number: what is absurd first, then random ones of each artifact by turns."""
    absurd = _absurdities(tuple(contents))
    if number < len(absurd):
        return absurd[number]()
    turn, which = divmod(number - len(absurd), len(contents))
    return artifact_mutations.mutant(contents[which], seed, turn)


@cache
def _absurdities(contents: tuple[bytes, ...]) -> list[Callable[[], tuple[str, bytes]]]:
    return [maker for content in contents for maker in artifact_mutations.absurdities(content)]


def _timed(mutant: bytes, seconds: float, name: str) -> tuple[float, str]:
    """Read a mutant; the processor time it took, and what came of it."""
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        result = artifact_mutations.outcome(mutant)
    except BaseException:
        print(name)
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return time.process_time() - began, result


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


@cache
def _first_peak_bytes() -> int:
    """Give the peak when a worker began."""
    return peak_process_bytes()


if __name__ == "__main__":
    app()
