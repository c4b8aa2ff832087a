"""Attention on this CPU: torch's fused kernel against two products and a softmax, forward and backward, in bf16.

    python benchmarks/attention_cpu.py [--rounds 15] [--out results/attention_cpu.json]

Both are compiled and run on the same inputs alternately, 8,192 tokens a call. The ratio is fused over products time,
median over rounds. `LONGEST_PRODUCTS_WINDOW` in train/compute.py rests on it.
"""

import statistics
import time
from functools import partial
from pathlib import Path

import torch
from cyclopts import App

from nutshell.files import write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.nn.kernels.attend import AttendKind, attend

app = App(help=__doc__)
TOKENS, HEADS, KV_HEADS, HEAD_DIM = 8192, 4, 2, 64


@app.default
def main(*, rounds: int = 15, out: Path | None = None) -> None:
    """Measure windows from 128 to 2,048 tokens."""
    torch.set_num_threads(num_threads())
    rows = [_measure(window, rounds) for window in (128, 256, 512, 1024, 2048)]
    for row in rows:
        print(f"window {row['window']:>5}: fused / products = {row['fused_over_products']:.2f}")
    if out:
        write_json(out, {"processor": processor(), "versions": versions(), "threads": num_threads(), "windows": rows})


def _measure(window: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    torch._dynamo.reset()  # or its count of recompilations runs out
    shape = (TOKENS // window, window)
    q = torch.randn(*shape, HEADS, HEAD_DIM, dtype=torch.bfloat16, requires_grad=True)
    k, v = (torch.randn(*shape, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    compiled = torch.compile(attend, fullgraph=True, dynamic=False)

    def run(kind: AttendKind) -> float:
        start = time.perf_counter()
        compiled(q, k, v, kind).sum().backward()
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
