"""How fast a text is scored, against a plain loop that computes the same numbers, one window at a time.

    python benchmarks/scoring.py ARTIFACT --data DIR [--documents 10] [--repeats 3] [--json]
        [--out results/scoring.json]

The plain loops are what the published evaluators do, at batch one and eager: a forward over each window with logits at
every position; for SGD besides a backward for each sequence of a chunk; for adapters a second forward to learn from.
They share the model's layers and the formulas, and nothing of `score` or `predict`. Both sides score the first
documents of the validation text, in turns, each in a process of its own that waits while the other computes; the ratio
is the median of those within a turn. The roofline is how many tokens a second the matrix products of a forward alone
would read, in fp32, with logits at every position: no disjoint windows can be faster.
"""

import copy
import json as json_module
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from cyclopts import App
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.artifact.load import Loaded
from nutshell.files import sha256_bytes, write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.nn.adapters import Adapters, Factors
from nutshell.pipeline.scoring import set_up
from nutshell.pipeline.store import open_artifact, open_documents
from nutshell.pipeline.strategies import AdaptedDocuments, ChunkedSGD, Disjoint, Sliding, StrategyConfig
from nutshell.predict.adapters import AdapterConfig, adapted_shapes
from nutshell.predict.sgd import SGDConfig
from nutshell.ranks import ALONE
from nutshell.score.means import BATCH_TOKENS, Means
from nutshell.score.rows import StepRule

app = App(help=__doc__)
STRIDE, STEP = 64, 32
ROOFLINE_REPEATS = 50
# Rates as found for the demo (docs/scoring-rules.md); sizes of chunks as the strategy's own and as published.
SGD = SGDConfig(lr=0.05, momentum=0.0, epochs=1)
PUBLISHED_SGD = SGDConfig(lr=0.002, momentum=0.9, epochs=3, batch_targets=65_536)
CHUNK, PUBLISHED_CHUNK = 512, 32_768


class Text(NamedTuple):
    """A document as the plain loops read it."""

    inputs: Tensor  # [1 T]
    targets: Tensor  # [1 T]


class Case(NamedTuple):
    """The same numbers in two ways."""

    ours: StrategyConfig
    plain: Callable[[Loaded, list[Text]], float]


@app.default
def main(
    artifact: Path, *, data: Path, documents: int = 10, repeats: int = 3, json: bool = False, out: Path | None = None
) -> None:
    """Score in both ways, in turns."""
    place = (str(artifact), str(data), str(documents))
    rows = []
    with Worker("ours", *place) as ours, Worker("plain", *place) as plain:
        for name in CASES:
            rows.append({"strategy": name, **_in_turns(name, ours, plain, repeats)})
            row = rows[-1]
            print(
                f"{name:<34} {row['targets_per_second']:8,.0f} targets/s, {row['speedup']:5.2f} x the plain loop's "
                f"{row['plain_targets_per_second']:7,.0f}; {row['difference']:+.1e} nats a token",
                flush=True,
            )
    roofline = _roofline(artifact)
    print(f"{'matrix products alone':<34} {roofline:8,.0f} tokens/s")
    report = {
        "roofline_tokens_per_second": roofline,
        "processor": processor(),
        "threads": num_threads(),
        "versions": versions(),
        "artifact_sha256": sha256_bytes(artifact.read_bytes()),
        "documents": documents,
        "targets": rows[0]["targets"],
        "repeats": repeats,
        "rows": rows,
    }
    if out:
        write_json(out, report)
    if json:
        print(json_module.dumps(report))


@app.command
def work(side: str, artifact: Path, data: Path, documents: int) -> None:
    """Score by each strategy that comes in by name, `ours` or `plain`; say what it took."""
    if side == "ours":
        set_up()
    else:
        torch.set_num_threads(num_threads())  # and the C library as it comes
    _, loaded = open_artifact(artifact)
    _, whole = open_documents(data, loaded)
    sample = whole.take(range(documents))
    texts = [
        Text(*(torch.from_numpy(tokens.astype(np.int64))[None] for tokens in (track.inputs, track.targets)))
        for track in sample.tracks()
    ]
    for line in sys.stdin:
        case = CASES[line.strip()]
        start = time.perf_counter()
        nats = (
            case.ours.score(loaded, sample, Means(), ALONE).total_nats if side == "ours" else case.plain(loaded, texts)
        )
        seconds = time.perf_counter() - start
        print(json_module.dumps({"seconds": seconds, "nats": nats, "targets": sample.num_targets}), flush=True)


class Worker:
    """A process that scores when it is told; a context manager that ends it."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, __file__, "work", *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, case: str) -> dict[str, Any]:
        """Score by a strategy; return seconds, nats and targets."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(case, file=self._process.stdin, flush=True)
        return json_module.loads(self._process.stdout.readline())


def _in_turns(case: str, ours: Worker, plain: Worker, repeats: int) -> dict[str, Any]:
    pairs = [(ours.run(case), plain.run(case)) for _ in range(repeats)]
    seconds, plain_seconds = ([answer["seconds"] for answer in side] for side in zip(*pairs, strict=True))
    one, other = pairs[0]
    return {
        "targets": one["targets"],
        "targets_per_second": one["targets"] / statistics.median(seconds),
        "plain_targets_per_second": one["targets"] / statistics.median(plain_seconds),
        "speedup": statistics.median(b / a for a, b in zip(seconds, plain_seconds, strict=True)),
        "difference": (one["nats"] - other["nats"]) / one["targets"],
        "seconds": seconds,
        "plain_seconds": plain_seconds,
    }


def _roofline(artifact: Path) -> float:
    """Time every matrix product of a forward of a batch, back to back; give tokens/s."""
    set_up()
    _, loaded = open_artifact(artifact)
    shapes = adapted_shapes(loaded.model, loaded.schedule, ()).values()
    pairs = [(torch.randn(BATCH_TOKENS, columns), torch.randn(rows, columns)) for columns, rows in shapes]
    seconds = []
    for _ in range(ROOFLINE_REPEATS):
        start = time.perf_counter()
        for x, weight in pairs:
            F.linear(x, weight)
        seconds.append(time.perf_counter() - start)
    return BATCH_TOKENS / statistics.median(seconds)


def _forward(loaded: Loaded, model: Any, inputs: Tensor, adapters: Adapters | None = None) -> Tensor:
    """Give the logits of every position."""
    stream = model.stream(inputs, dtype=torch.float32, attend_kind="fused")
    if adapters:
        stream = stream._replace(adapters=adapters)
    return model.read_out(model.trunk(stream, loaded.schedule), stream)


def _windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Give begin, end and first scored target of each window."""
    first = 0
    while first < length:
        end = context if first == 0 else min(length, first + stride)
        begin = 0 if first == 0 else first + stride - context
        yield begin, min(end, length), first
        first = end


def _plain_windows(stride: int | None) -> Callable[[Loaded, list[Text]], float]:
    @torch.inference_mode()
    def run(loaded: Loaded, texts: list[Text]) -> float:
        total = 0.0
        for text in texts:
            for begin, end, first in _windows(len(text.targets[0]), loaded.context, stride or loaded.context):
                total += _window_nats(loaded, loaded.model, text, begin, end, first)
        return total

    return run


def _window_nats(loaded: Loaded, model: Any, text: Text, begin: int, end: int, first: int) -> float:
    logits = _forward(loaded, model, text.inputs[:, begin:end])
    losses = F.cross_entropy(logits[0], text.targets[0, begin:end], reduction="none")
    return losses[first - begin :].double().sum().item()


def _plain_sgd(config: SGDConfig, chunk: int) -> Callable[[Loaded, list[Text]], float]:
    def run(loaded: Loaded, texts: list[Text]) -> float:
        model = copy.deepcopy(loaded.model).requires_grad_(True)
        values = list(model.parameters())
        optimizer = torch.optim.SGD(values, lr=config.lr, momentum=config.momentum)
        before, windows = 0, []
        for text in texts:
            length = len(text.targets[0])
            windows += [
                ((before + first) // chunk, text, begin, end, first)
                for begin, end, first in _windows(length, loaded.context, STRIDE)
            ]
            before += length
        total, last = 0.0, windows[-1][0]
        for number in range(last + 1):
            own = [window for window in windows if window[0] == number]
            with torch.inference_mode():
                total += sum(_window_nats(loaded, model, *window[1:]) for window in own)
            if own and number < last:
                _learn(loaded, model, optimizer, config, own, config.lr * 0.5 * (1 + math.cos(math.pi * number / last)))
        return total

    return run


def _learn(loaded: Loaded, model: Any, optimizer: Any, config: SGDConfig, windows: Sequence[Any], lr: float) -> None:
    """Learn from a chunk: sequence by sequence, a step for each batch of them."""
    sequences = []
    for _, group in groupby(windows, key=lambda window: id(window[1])):
        own = list(group)
        text, stop = own[0][1], own[-1][3]
        for start in range(own[0][4], stop, loaded.context):
            sequences.append((text, start, min(start + loaded.context, stop)))
    optimizer.param_groups[0]["lr"] = lr
    for _ in range(config.epochs):
        left = list(sequences)
        while left:
            batch, targets = [], 0
            while left and (config.batch_targets is None or targets < config.batch_targets):
                batch.append(left.pop(0))
                targets += batch[-1][2] - batch[-1][1]
            optimizer.zero_grad()
            for text, start, stop in batch:
                logits = _forward(loaded, model, text.inputs[:, start:stop])
                (F.cross_entropy(logits[0], text.targets[0, start:stop], reduction="sum") / targets).backward()
            if config.clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()


def _plain_adapters(config: AdapterConfig) -> Callable[[Loaded, list[Text]], float]:
    def run(loaded: Loaded, texts: list[Text]) -> float:
        generator = torch.Generator().manual_seed(config.seed)
        drawn = {
            place: (torch.randn(config.rank, columns, generator=generator) / columns**0.5, rows)
            for place, (columns, rows) in adapted_shapes(loaded.model, loaded.schedule, config.matrices).items()
        }
        total = 0.0
        for text in texts:
            factors = {
                place: Factors(a[None].clone().requires_grad_(), torch.zeros(1, rows, config.rank, requires_grad=True))
                for place, (a, rows) in drawn.items()
            }
            adapters = Adapters(factors, config.alpha / config.rank)
            optimizer = torch.optim.AdamW(
                [value for pair in factors.values() for value in pair],
                lr=config.lr,
                betas=config.betas,
                weight_decay=config.weight_decay,
            )
            for first in range(0, len(text.targets[0]), STEP):
                begin = max(0, first + STEP - loaded.context)
                inputs, targets = text.inputs[:, begin : first + STEP], text.targets[0, first : first + STEP]
                with torch.no_grad():
                    logits = _forward(loaded, loaded.model, inputs, adapters)[0, first - begin :]
                    total += F.cross_entropy(logits, targets, reduction="none").double().sum().item()
                optimizer.zero_grad()
                logits = _forward(loaded, loaded.model, inputs, adapters)[0, first - begin :]
                F.cross_entropy(logits, targets).backward()
                optimizer.step()
        return total

    return run


CASES = {
    "disjoint": Case(Disjoint(), _plain_windows(None)),
    f"sliding, stride {STRIDE}": Case(Sliding(stride=STRIDE), _plain_windows(STRIDE)),
    f"chunked SGD, {CHUNK} targets": Case(
        ChunkedSGD(stride=STRIDE, chunk_targets=CHUNK, learner=SGD), _plain_sgd(SGD, CHUNK)
    ),
    f"chunked SGD, {PUBLISHED_CHUNK:,} targets": Case(
        ChunkedSGD(stride=STRIDE, chunk_targets=PUBLISHED_CHUNK, learner=PUBLISHED_SGD),
        _plain_sgd(PUBLISHED_SGD, PUBLISHED_CHUNK),
    ),
    f"document adapters, {STEP} targets": Case(
        AdaptedDocuments(steps=(StepRule(targets=STEP),)), _plain_adapters(AdapterConfig())
    ),
}


if __name__ == "__main__":
    app()
