"""The whole main job: every stage in order, each kept if its result is here and made from the same inputs.

Scoring and proving run in fresh processes that are given the artifact and the data, and nothing of the trainer.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nutshell.data.corpus import BuildConfig, build
from nutshell.data.dataset import Dataset
from nutshell.data.split import Source
from nutshell.errors import ProofError, RunError, UsageError
from nutshell.files import sha256_file, write_json
from nutshell.memory import give_back_freed_memory
from nutshell.pipeline import store
from nutshell.pipeline.averages import is_scored, score_weights
from nutshell.pipeline.packing import pack_run, packing_ranks
from nutshell.pipeline.training import Told, Training
from nutshell.ranks import environment_alone, rank_here
from nutshell.recipe import Resolved
from nutshell.report.html import write_report
from nutshell.report.tables import summary_view
from nutshell.report.terminal import Terminal
from nutshell.score.config import ProveConfig
from nutshell.train.checkpoint import Change
from nutshell.train.clock import Laps
from nutshell.units import format_seconds

SCORE_KEYS = [
    "metric",
    "bpb",
    "disjoint_bpb",
    "stream_bpb",
    "nats_per_token",
    "nats_per_byte",
    "total_nats",
    "tokens",
    "bytes",
    "documents",
    "coverage",
    "strategy",
    "compressors",
]
PROOF_KEYS = ["ok", "reason", "tokens", "documents", "bytes", "claimed_bits", "coded_bits", "text_sha256"]


def build_data(source: Source, out: Path, config: BuildConfig, *, terminal: Terminal) -> Dataset:
    """Build a data set, and note beside its files how long it took."""
    start = time.perf_counter()
    with terminal.stage("build data", unit="bytes") as advance:
        dataset = build(source, out, config, lambda _, done, total: advance(done, total))
    write_json(out / store.DATA_TIMING, {"seconds": time.perf_counter() - start})
    return dataset


def train_run(training: Training, *, resume: bool, terminal: Terminal, profile: bool = False) -> dict[str, Any]:
    """Train, or find that this very training has been done.

    Raises:
        UsageError: it has been done, and should be profiled.
    """
    if training.is_done():
        if profile:
            raise UsageError(
                f"train: {training.run_dir} is done, and --profile watches a training; choose another --out"
            )
        terminal.note(f"train: done before, kept ({training.run_dir})")
        return store.read_stage(training.run_dir / store.RECEIPT, remedy="train again")
    terminal.note("compile ...")
    with terminal.training(predicted_artifact_bytes=training.predicted_bytes()) as show:
        told = Told(
            row=show,
            prepared=lambda seconds: terminal.note(f"compile: {format_seconds(seconds)}"),
            changed=lambda change: terminal.note(_warning(change), "unsure"),
            warned=lambda warning: terminal.note(warning, "unsure"),
        )
        return training.run(resume=resume, told=told, profiler=training.profiler() if profile else None)


def run_all(resolved: Resolved, data_dir: Path, run_dir: Path, *, seed: int, terminal: Terminal) -> dict[str, Any]:
    """Take a recipe from data to report; return the summary.

    Raises:
        ProofError: everything was written, and the proof of the score failed.
    """
    laps = Laps()
    dataset = Dataset.open(data_dir)
    dataset.check_scorable()
    training = Training(resolved, dataset, run_dir, seed=seed, laps=laps)
    train_run(training, resume=(run_dir / store.CHECKPOINT).exists(), terminal=terminal)
    give_back_freed_memory()
    if not rank_here() and resolved.recipe.train.averages and not is_scored(run_dir, resolved.recipe):
        with terminal.stage("compare averages", unit="tokens read") as advance:
            score_weights(run_dir, data_dir, progress=advance)
    with packing_ranks() as ranks:
        # The first one knows: others may look before it has written the weights.
        if not ranks.share(ranks.is_first and _is_packed(run_dir, resolved.recipe.pack.budget_bytes)):
            with terminal.stage("pack", unit="packings") as advance:
                pack_run(run_dir, data_dir, progress=advance, ranks=ranks)
    if rank_here():  # one process is enough for what follows
        return {}
    give_back_freed_memory()  # the scoring process will have its own
    _score_in_fresh_process(run_dir, data_dir, terminal)
    if resolved.recipe.prove:
        _prove_in_fresh_process(run_dir, data_dir, resolved.recipe.prove, terminal)
    summary = summarise(run_dir, data_dir)
    report = write_report(run_dir)
    terminal.result(summary, partial(summary_view, report=report))
    if summary["proof"] and not summary["proof"]["ok"]:
        raise ProofError(f"{run_dir}: the score is not proved: {summary['proof']['reason']}")
    return summary


def summarise(run_dir: Path, data_dir: Path) -> dict[str, Any]:
    """Collect the answer of a run from what its stages wrote, and write summary.json."""
    receipt = store.read_stage(run_dir / store.RECEIPT, remedy="train the run first")
    ledger = store.read_stage(run_dir / store.LEDGER, remedy="pack the run first")
    score = store.read_stage(run_dir / store.SCORE, remedy="score the run first")
    proof = store.read_stage(run_dir / store.PROOF, remedy="prove it") if (run_dir / store.PROOF).exists() else None
    timing = data_dir / store.DATA_TIMING
    averages = (
        store.read_stage(run_dir / store.AVERAGES, remedy="delete it") if (run_dir / store.AVERAGES).exists() else None
    )
    stages = {
        "data": store.read_stage(timing, remedy="delete it")["seconds"] if timing.exists() else None,
        **receipt["seconds"],
        "averages": averages["seconds"] if averages else None,
        "pack": ledger["seconds"],
        "score": score["seconds"],
        "prove": proof["seconds"] if proof else None,
    }
    summary = {
        "name": receipt["name"],
        **{key: score[key] for key in SCORE_KEYS},
        "averages": _averages_of(averages) if averages else None,
        "artifact": store.ARTIFACT,
        **{key: ledger[key] for key in ("artifact_bytes", "artifact_sha256", "budget_bytes")},
        "proof": {key: proof[key] for key in PROOF_KEYS} if proof else None,
        "seconds": {stage: seconds for stage, seconds in stages.items() if seconds is not None},
        "peak_memory_bytes": receipt.get("peak_memory_bytes"),  # older receipts have none
        "command": shlex.join(["nutshell", *sys.argv[1:]]),
        **{key: receipt[key] for key in ("overrides", "seed", "num_params", "processor")},
    }
    write_json(run_dir / store.SUMMARY, summary)
    return summary


def _averages_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Say what was packed, and what each of the weights reached before that."""
    return {
        "packed": result["packed"],
        "disjoint_bpb": {name: each["disjoint_bpb"] for name, each in result["weights"].items()},
    }


def _warning(change: Change) -> str:
    return (
        f"resumed after step {change.after_step}: {change.condition} was {change.before} and is {change.after} here; "
        f"steps round differently from now on, and {store.RECEIPT} will say so"
    )


def _is_packed(run_dir: Path, budget_bytes: int) -> bool:
    if not (run_dir / store.LEDGER).exists() or not (run_dir / store.ARTIFACT).exists():
        return False
    ledger = store.read_stage(run_dir / store.LEDGER, remedy="delete it")
    return (
        ledger["budget_bytes"] == budget_bytes
        and ledger["weights_sha256"] == sha256_file(run_dir / store.WEIGHTS)
        and ledger["artifact_sha256"] == sha256_file(run_dir / store.ARTIFACT)
    )


def _score_in_fresh_process(run_dir: Path, data_dir: Path, terminal: Terminal) -> None:
    artifact, result = run_dir / store.ARTIFACT, run_dir / store.SCORE
    found = _find_result(result, artifact)
    is_whole = found.keys() >= set(SCORE_KEYS)  # an older version scored less
    if not is_whole or found.get("schedule") != found.get("trained_schedule"):
        _run_verb(terminal, "score", str(artifact), "--data", str(data_dir), "--out", str(result))


def _prove_in_fresh_process(run_dir: Path, data_dir: Path, config: ProveConfig, terminal: Terminal) -> None:
    artifact, result = run_dir / store.ARTIFACT, run_dir / store.PROOF
    if _find_result(result, artifact).get("ok"):
        return
    sample = ("--docs", str(config.documents), "--max-tokens", str(config.max_tokens))
    files = ("--claim", str(run_dir / store.SCORE), "--out", str(run_dir / store.BITSTREAM))
    result.unlink(missing_ok=True)
    try:
        _run_verb(terminal, "prove", str(artifact), "--data", str(data_dir), *sample, *files)
    except RunError:
        if not result.exists():  # a proof that failed is a result, and goes into summary and report
            raise


def _find_result(path: Path, artifact: Path) -> dict[str, Any]:
    """Read what a stage made of this very artifact; empty if it has not."""
    if not path.exists():
        return {}
    result = store.read_stage(path, remedy="delete it")
    return result if result.get("artifact_sha256") == sha256_file(artifact) else {}


def _run_verb(terminal: Terminal, *arguments: str) -> None:
    """Run a verb of this very installation in a process of its own; its messages pass through.

    Raises:
        RunError: it failed; it has said why.
    """
    silence = ["--json"] if terminal.voice == "silent" else []
    done = subprocess.run(
        [sys.executable, "-m", "nutshell", *arguments, *silence], check=False, env=environment_alone()
    )
    if done.returncode:
        raise RunError(f"nutshell {arguments[0]} failed (see above); the stages before it are kept")
