"""Attention on this CPU: torch's fused kernel against two products and a softmax, forward and backward, in bf16.

    python benchmarks/attention_cpu.py [--rounds 15] [--out results/attention_cpu.json]

Both are compiled and run on the same inputs alternately, 8,192 tokens a call, over whole windows and within documents
of a third of a window. The ratio is fused over products time, median over rounds. `LONGEST_PRODUCTS_WINDOW` in
nn/kernels/choose.py rests on it.
"""

import statistics
import time
from functools import partial
from pathlib import Path

import torch
from cyclopts import App

from nutshell.files import write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.nn.cache import DocumentIds
from nutshell.nn.kernels.attend import AttendKind, attend

app = App(help=__doc__)
TOKENS, HEADS, KV_HEADS, HEAD_DIM = 8192, 4, 2, 64


@app.default
def main(*, rounds: int = 15, out: Path | None = None) -> None:
    """Measure windows from 128 to 2,048 tokens."""
    torch.set_num_threads(num_threads())
    windows = (128, 256, 512, 1024, 2048)
    rows = {
        "windows": [_measure(window, rounds, documents=None) for window in windows],
        "within_documents": [_measure(window, rounds, documents=_thirds(window)) for window in windows],
    }
    for name, measured in rows.items():
        for row in measured:
            print(f"{name} {row['window']:>5}: fused / products = {row['fused_over_products']:.2f}")
    if out:
        write_json(out, {"processor": processor(), "versions": versions(), "threads": num_threads(), **rows})


def _thirds(window: int) -> DocumentIds:
    numbers = (3 * torch.arange(window) // window).repeat(TOKENS // window, 1)
    return DocumentIds(numbers, numbers)


def _measure(window: int, rounds: int, documents: DocumentIds | None) -> dict[str, float]:
    torch.manual_seed(0)
    torch._dynamo.reset()  # or its count of recompilations runs out
    shape = (TOKENS // window, window)
    q = torch.randn(*shape, HEADS, HEAD_DIM, dtype=torch.bfloat16, requires_grad=True)
    k, v = (torch.randn(*shape, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    compiled = torch.compile(attend, fullgraph=True, dynamic=False)

    def run(kind: AttendKind) -> float:
        start = time.perf_counter()
        compiled(q, k, v, kind, documents).sum().backward()
        return time.perf_counter() - start

    calls = {"fused": partial(run, "fused"), "products": partial(run, "products")}
    for call in calls.values():
        for _ in range(3):
            call()
    seconds = [{kind: call() for kind, call in calls.items()} for _ in range(rounds)]
    return {
        "window": window,
        **{f"{kind}_seconds": statistics.median(row[kind] for row in seconds) for kind in calls},
        "fused_over_products": statistics.median(row["fused"] / row["products"] for row in seconds),
    }


if __name__ == "__main__":
    app()
