"""The scoring stages: artifact bytes to a score, or to text. None of them has met the trainer."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from nutshell.artifact.load import Loaded
from nutshell.data.dataset import Dataset
from nutshell.data.exports import ROW
from nutshell.errors import UsageError
from nutshell.files import sha256_bytes
from nutshell.machine import num_threads, processor, versions
from nutshell.memory import keep_freed_memory
from nutshell.pipeline import store
from nutshell.pipeline.strategies import Disjoint, Rolling, Sliding, StrategyConfig, own_strategy, read_strategy
from nutshell.predict.predictor import ModelStepper
from nutshell.ranks import ALONE, joined_ranks
from nutshell.score.compressors import compress_all
from nutshell.score.generate import generate
from nutshell.score.ledger import Score
from nutshell.score.means import Budget, Means, rising
from nutshell.score.predictor import Progress
from nutshell.score.text import Documents

# What a table of strategies has of each, and what is the same for all of them.
COMPARED = ("bpb", "nats_per_token", "tokens_per_second", "seconds", "loading_seconds")
SAME_FOR_ALL = (
    *("metric", "tokens", "bytes", "documents", "coverage", "schedule", "trained_schedule", "ranks"),
    *("artifact_bytes", "artifact_sha256", "data_digest"),
)


def set_up() -> None:
    """Tell torch and the C library what this process is going to do: batch after batch, on all processors.

    Memory that is given back between two batches has every page cleared for the next: a third of the time, where the
    vocabulary is large beside the model (`benchmarks/scoring.py`).
    """
    torch.set_num_threads(num_threads())
    keep_freed_memory()


def score_artifact(
    artifact: Path, data_dir: Path, *, stride: int | None, schedule: str | None = None, progress: Progress
) -> dict[str, Any]:
    """Score the whole validation text by document; other definitions and the compressors stand beside the score.

    Windows, stride and depth schedule are those of the artifact's own recipe unless given. Under another schedule the
    result is an experiment with the artifact, not its score: it names both schedules, and `prove_artifact` refuses it.

    Raises:
        RecipeError: the artifact's model cannot run the schedule.
    """
    start = time.perf_counter()
    set_up()
    content, trained = store.open_artifact(artifact)
    loaded = trained if schedule is None else trained.under(schedule)
    dataset, documents = store.open_documents(data_dir, loaded)
    scores = score_every_way(loaded, documents, own_strategy(loaded, stride=stride), progress=progress)
    return {
        **msgspec.to_builtins(scores.own),
        "disjoint_bpb": scores.disjoint.bpb,
        "stream_bpb": scores.stream.bpb,
        "schedule": loaded.schedule.text,
        "trained_schedule": trained.schedule.text,
        **_bytes_per_token(dataset, documents, scores.own),
        "compressors": compress_all(documents.text()),
        "artifact_bytes": len(content),
        "artifact_sha256": sha256_bytes(content),
        "data_digest": dataset.digest,
        "seconds": time.perf_counter() - start,
    }


class Scores(NamedTuple):
    """What a model reaches on a text: by its own strategy, and by two definitions that others quote.

    Attributes:
        own: The answer, which can be proved.
        disjoint: By document, in disjoint windows.
        stream: Over the stream, in disjoint windows: the field's published definition.
    """

    own: Score
    disjoint: Score
    stream: Score


def score_every_way(
    loaded: Loaded, documents: Documents, own: Disjoint | Sliding | Rolling, *, progress: Progress | None = None
) -> Scores:
    """Score by every definition, once if two are the same. One progress runs over all."""
    ways = (own, Disjoint(), Disjoint(unit="stream"))
    different = list(dict.fromkeys(ways))
    advance = Means(progress=progress).meter(sum(way.num_inputs(loaded, documents) for way in different))
    found = {way: way.score(loaded, documents, Means(progress=rising(advance)), ALONE) for way in different}
    return Scores(*(found[way] for way in ways))


def score_by_strategy(
    artifact: Path,
    data_dir: Path,
    strategy: StrategyConfig,
    *,
    schedule: str | None = None,
    budget_seconds: float | None = None,
    forecast: Callable[[float], None] | None = None,
    stage: str = "score",
    progress: Progress,
) -> dict[str, Any]:
    """Score the validation text by one strategy, on all ranks together, in a limit of time if one is given.

    The limit counts from here: loading the artifact and the text is in it. `forecast` is told, after the first chunk,
    what the whole text would take. Ranks that score several times meet for each at a `stage` of its own.

    Raises:
        RecipeError: the model cannot run the schedule or the strategy.
        BudgetError: there is not the time for one chunk.
    """
    budget = None if budget_seconds is None else Budget(budget_seconds, tell=forecast)
    start = time.perf_counter()
    set_up()
    content, trained = store.open_artifact(artifact)
    loaded = trained if schedule is None else trained.under(schedule)
    dataset, documents = store.open_documents(data_dir, loaded)
    loading_seconds = time.perf_counter() - start
    with joined_ranks(torch.device("cpu"), stage=stage) as ranks:
        means = Means(team=ranks, budget=budget, progress=progress)
        score = strategy.score(loaded, documents, means, ranks)
    seconds = time.perf_counter() - start
    return {
        **msgspec.to_builtins(score),
        **_bytes_per_token(dataset, documents, score),
        "tokens_per_second": score.tokens / (seconds - loading_seconds),
        "budget": _kept(budget, seconds),
        "schedule": loaded.schedule.text,
        "trained_schedule": trained.schedule.text,
        "ranks": ranks.size,
        "artifact_bytes": len(content),
        "artifact_sha256": sha256_bytes(content),
        "data_digest": dataset.digest,
        "loading_seconds": loading_seconds,
        "seconds": seconds,
    }


def compare_strategies(
    artifact: Path,
    data_dir: Path,
    strategies: Sequence[str],
    *,
    schedule: str | None = None,
    stage: Callable[[str], AbstractContextManager[Progress]],
    done: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Score the validation text by several strategies, one after the other, each as if it were alone.

    Args:
        artifact: the .nut file.
        data_dir: a data set of its tokenizer.
        strategies: as they are written on the command line; gains are over the first.
        schedule: run the blocks in this order instead of the trained one.
        stage: shows the progress of one of them.
        done: told the result as it stands after each, so that what is measured is not lost.

    Raises:
        RecipeError: one of them is no strategy, or the model cannot run it.
        UsageError: one is named twice.
    """
    chosen = {text: read_strategy(text) for text in strategies}  # all, before the first takes its minutes
    if len(chosen) < len(strategies):
        raise UsageError(f"score: --compare names a strategy twice: {', '.join(strategies)}")
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for text, strategy in chosen.items():
        with stage(text) as progress:
            scored = score_by_strategy(
                artifact, data_dir, strategy, schedule=schedule, stage=f"score {text}", progress=progress
            )
        row = {name: scored[name] for name in COMPARED}
        rows.append({"strategy": text, **row, "gain": 1 - scored["bpb"] / (rows[0]["bpb"] if rows else scored["bpb"])})
        facts = {name: scored[name] for name in SAME_FOR_ALL}
        result = {**facts, "processor": processor(), "threads": num_threads(), "versions": versions(), "rows": rows}
        done(result)
    return result


def _bytes_per_token(dataset: Dataset, documents: Documents, score: Score) -> dict[str, Any]:
    """Give the text's own number and, of an export of which one was published, that and ours by the same rule."""
    own = {"bytes_per_token": score.bytes / score.tokens}
    if (published := dataset.published_bytes_per_token) is None:
        return own
    return own | {"published_bytes_per_token": {"published": published, "found": documents.bytes_per_token_in(ROW)}}


def _kept(budget: Budget | None, seconds: float) -> dict[str, Any] | None:
    """Say what a limit of time was, what it looked as if the whole text would take, and whether it was kept."""
    if budget is None:
        return None
    forecast = seconds if budget.forecast_seconds is None else budget.forecast_seconds
    return {"seconds": budget.seconds, "forecast_seconds": forecast, "kept": seconds <= budget.seconds}


def sample_text(artifact: Path, prompt: str, *, max_tokens: int, temperature: float, seed: int) -> str:
    """Continue a prompt with the artifact's model; bytes that are not UTF-8 show as a replacement character."""
    set_up()
    _, loaded = store.open_artifact(artifact)
    tokenizer = loaded.tokenizer
    tokens = generate(
        ModelStepper(loaded),
        tokenizer.encode(prompt.encode()),
        bos_id=tokenizer.bos_id,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    )
    return tokenizer.decode(tokens).decode("utf-8", errors="replace")
