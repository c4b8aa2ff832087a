"""Time and memory of the loss on this CPU: read out in pieces with its gradient, against autograd over the whole.

    python benchmarks/loss_cpu.py [--rounds 10] [--out results/loss_cpu.json]

Batches of 32 x 128 tokens in bf16 on tied heads of several vocabularies and widths. Each way is compiled and they take
turns; ratios are taken within a round. Memory is the peak of what is allocated beyond the inputs. `MAX_LOGITS_BYTES` in
train/loss.py rests on it.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import torch
from cyclopts import App
from torch.profiler import ProfilerActivity, profile

from nutshell.files import write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.model.lm import LM
from nutshell.nn.kernels.cross_entropy import Smoothing
from nutshell.recipe import resolve
from nutshell.train import loss as loss_module
from nutshell.train.compute import Compute
from nutshell.train.loss import ReadOutLoss, TrainingLoss

app = App(help=__doc__)
BATCH, SEQ_LEN, HEAD_DIM = 32, 128, 64
SIZES = ((1024, 256), (2048, 192), (8192, 256))
PIECES = (1, 2, 4, 8)


@app.default
def main(*, rounds: int = 10, out: Path | None = None) -> None:
    """Measure vocabularies of 1,024 to 8,192."""
    compute = Compute(torch.bfloat16, "products", compiled=True)
    compute.set_up()
    rows = [row for vocab_size, width in SIZES for row in _measure(vocab_size, width, compute, rounds)]
    for row in rows:
        print(
            f"{row['vocab_size']:>5} {row['way']:>9}: {row['over_autograd']:.2f} of autograd's time, "
            f"{row['peak_bytes'] / 1e6:.0f} MB"
        )
    if out:
        write_json(out, {"processor": processor(), "versions": versions(), "threads": num_threads(), "rows": rows})


def _measure(vocab_size: int, width: int, compute: Compute, rounds: int) -> list[dict[str, Any]]:
    ways = _ways(vocab_size, width, compute)
    for run in ways.values():
        for _ in range(3):
            run()
    seconds = [{way: _seconds(run) for way, run in ways.items()} for _ in range(rounds)]
    return [
        {
            "vocab_size": vocab_size,
            "width": width,
            "tokens": BATCH * SEQ_LEN,
            "way": way,
            "seconds": statistics.median(row[way] for row in seconds),
            "over_autograd": statistics.median(row[way] / row["autograd"] for row in seconds),
            "peak_bytes": _peak_bytes(run),
        }
        for way, run in ways.items()
    ]


def _ways(vocab_size: int, width: int, compute: Compute) -> dict[str, Callable[[], object]]:
    recipe = resolve("demo").recipe
    attention = msgspec.structs.replace(recipe.model.attention, num_heads=width // HEAD_DIM)
    config = msgspec.structs.replace(recipe.model, vocab_size=vocab_size, model_dim=width, attention=attention)
    model = LM(config, recipe.schedules)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (BATCH, SEQ_LEN + 1), generator=generator)
    stream = model.stream(tokens[:, :-1], dtype=compute.dtype, attend_kind=compute.attend_kind)
    x = torch.randn(BATCH, SEQ_LEN, width, generator=generator).to(compute.dtype).requires_grad_()
    torch._dynamo.reset()
    whole = torch.compile(ReadOutLoss(model, Smoothing()), fullgraph=True, dynamic=False)
    loss = TrainingLoss(model, compute, recipe.train)

    def by_autograd() -> None:
        x.grad = model.embedding.grad = None
        whole(x, model.embedding, stream, tokens[:, 1:]).objective.backward()

    def in_pieces(num: int) -> None:
        with mock.patch.dict(loss_module.MAX_LOGITS_BYTES, cpu=4 * BATCH * SEQ_LEN * vocab_size // num):
            loss.with_gradients(x.detach(), model.embedding.detach(), stream, tokens[:, 1:])

    return {"autograd": by_autograd} | {f"{num} pieces": lambda num=num: in_pieces(num) for num in PIECES}


def _peak_bytes(run: Callable[[], object]) -> int:
    """Add up what is allocated and freed while it runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    changes = sorted(_changes(profiler.profiler.kineto_results.experimental_event_tree()))
    peak = now = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def _changes(events: Iterable[Any]) -> list[tuple[int, int]]:
    found = [(event.start_time_ns, event.extra_fields.alloc_size) for event in events if event.name == "[memory]"]
    return [*found, *(change for event in events for change in _changes(event.children))]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    app()
