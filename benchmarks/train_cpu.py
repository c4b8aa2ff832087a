"""Training speed on this CPU: tokens/s against an eager fp32 loop, the fraction of the roofline, and memory.

    python benchmarks/train_cpu.py [--recipe demo] [--rounds 12] [--json] [--out results/train_cpu.json]

Measured are the recipe, in each of its schedules, and a plain model of 9 layers of 256. Beside each runs the loop that
one would write first, over the same model from the same weights: fp32, nothing compiled, torch's own attention and
cross-entropy, the same optimizers, the C library as it comes. Each has a process of its own, which waits while another
computes. The roofline is the time that the step's matrix products take alone: every product of one step (forward,
backward and Newton-Schulz; not what is inside a fused attention kernel) is recorded with its shapes, strides and
precision, and all run back to back on their own tensors. The fraction is that time over the time of the whole step. All
three take turns in one run, since timings drift; ratios are taken within a round. Memory is the peak of a process.
"""

import json as json_module
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from cyclopts import App
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it
from torch.utils._python_dispatch import TorchDispatchMode

from nutshell.files import write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.memory import peak_process_bytes
from nutshell.model.accounting import flops_per_token
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.recipe import Recipe, Resolved, resolve
from nutshell.train.compute import Compute
from nutshell.train.loss import TrainingLoss
from nutshell.train.state import TrainState

app = App(help=__doc__)
HEADLINES = (
    "speedup_over_eager_fp32",
    "fraction_of_roofline",
    "tokens_per_second",
    "peak_bytes",
    "eager_fp32_peak_bytes",
)
PLAIN = [
    "model.model_dim=256",
    "model.attention.num_heads=4",
    "model.attention.num_kv_heads=2",
    "model.mlp.mlp_dim=512",
    "train.batch_size=16",
    "train.seq_len=256",
    "score.stride=256",
]
PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
}


@dataclass(frozen=True)
class Product:
    """One matrix product as it was called; operands as (shape, stride, dtype)."""

    operation: Any
    operands: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]

    def flops(self) -> int:
        """Count two FLOPs a multiply-add."""
        (left, _, _), (right, _, _) = self.operands[-2:]
        return 2 * right[-1] * int(torch.tensor(left).prod())

    def prepare(self) -> Callable[[], Tensor]:
        """Make operands of its own and return the call."""
        tensors = [_strided(*operand) for operand in self.operands]
        return lambda: self.operation(*tensors)


class Recorder(TorchDispatchMode):
    """Collects the products of what runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in PRODUCTS:
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            self.products.append(Product(func, tuple((tuple(t.shape), t.stride(), t.dtype) for t in tensors)))
        return func(*args, **(kwargs or {}))


class Step:
    """One training step of a recipe: loss, gradients, optimizers, average."""

    def __init__(self, recipe: Recipe, compute: Compute) -> None:
        model = LM(recipe.model, recipe.schedules)
        model.init_weights(0)
        self.loss = TrainingLoss(model, compute, recipe.train)
        self.state = TrainState(model, recipe.train, recipe.optim, dtype=compute.dtype)
        shape = (recipe.train.batch_size, recipe.train.seq_len + 1)
        tokens = torch.randint(recipe.model.vocab_size, shape, generator=torch.Generator().manual_seed(0))
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:]

    def run(self, schedule: DepthSchedule) -> dict[str, float]:
        """Take a step of the middle of a run; return the seconds of its parts."""
        marks = [time.perf_counter()]
        loss = self.loss(self.inputs, self.targets, schedule)
        marks.append(time.perf_counter())
        loss.objective.backward()
        marks.append(time.perf_counter())
        self.state.optimizers.step(0.5)
        marks.append(time.perf_counter())
        self.state.average(0.5)
        marks.append(time.perf_counter())
        parts = ("forward", "backward", "optimizers", "average")
        return {part: stop - start for part, start, stop in zip(parts, marks, marks[1:], strict=False)}


class EagerStep(Step):
    """The same step as one would write it first."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, Compute(torch.float32, "fused", compiled=False))

    def run(self, schedule: DepthSchedule) -> dict[str, float]:
        """Take a step of the middle of a run; return its seconds."""
        start = time.perf_counter()
        logits = self.state.model(self.inputs, schedule)
        F.cross_entropy(logits.flatten(0, 1), self.targets.flatten()).backward()
        self.state.optimizers.step(0.5)
        self.state.average(0.5)
        return {"step": time.perf_counter() - start}


@app.default
def main(*, recipe: str = "demo", rounds: int = 12, json: bool = False, out: Path | None = None) -> None:
    """Measure training steps on this machine."""
    resolved = [resolve(recipe), resolve("baseline", PLAIN)]
    results = [_measure_recipe(some, rounds) for some in resolved]
    report = {
        "recipe": resolved[0].name,
        "processor": processor(),
        "versions": versions(),
        **{key: results[0][key] for key in HEADLINES},
        "results": results,
    }
    if out:
        write_json(out, report)
    if json:
        print(json_module.dumps(report))
        return
    for result in results:
        ours, eager = (f"{result[key] / 1e6:,.0f} MB" for key in ("peak_bytes", "eager_fp32_peak_bytes"))
        print(f"{result['name']}: {ours}, eager {eager}")
        for row in result["schedules"]:
            print(
                f"  {row['schedule']:16} {row['tokens_per_second']:>9,.0f} tokens/s  "
                f"{row['flops_per_second'] / 1e9:>6.0f} GFLOP/s  {1e3 * row['step_seconds']:>6.0f} ms/step  "
                f"{row['speedup_over_eager_fp32']:.2f} times eager fp32  "
                f"{row['fraction_of_roofline']:.2f} of the roofline"
            )


@app.command
def work(kind: str, recipe: str, *overrides: str) -> None:
    """Take a step of one kind, `step` or `eager`, for each schedule's number that comes in; say what it took."""
    resolved = resolve(recipe, list(overrides)).recipe
    compute = Compute.choose(resolved.train, resolved.model)
    if kind == "step":
        compute.set_up()
    else:
        torch.set_num_threads(num_threads())
    step = Step(resolved, compute) if kind == "step" else EagerStep(resolved)
    for line in sys.stdin:
        before = _page_faults()
        seconds = step.run(resolved.schedules[int(line)])
        faults = _page_faults() - before
        print(json_module.dumps({"seconds": seconds, "faults": faults, "peak_bytes": peak_process_bytes()}), flush=True)


class Worker:
    """A process that takes steps when it is told; a context manager that ends it."""

    def __init__(self, kind: str, resolved: Resolved) -> None:
        command = [sys.executable, __file__, "work", kind, resolved.name, *(PLAIN if resolved.overrides else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak_bytes = self.page_faults = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, schedule: int) -> dict[str, float]:
        """Take a step; return the seconds of its parts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(schedule, file=self._process.stdin, flush=True)
        answer = json_module.loads(self._process.stdout.readline())
        self.peak_bytes, self.page_faults = answer["peak_bytes"], answer["faults"]
        return answer["seconds"]


def _measure_recipe(resolved: Resolved, rounds: int) -> dict[str, Any]:
    recipe = resolved.recipe
    compute = Compute.choose(recipe.train, recipe.model)
    compute.set_up()
    with Worker("step", resolved) as step, Worker("eager", resolved) as eager:
        schedules = [_measure(recipe, number, compute, step, eager, rounds) for number in range(len(recipe.schedules))]
        peaks = {"peak_bytes": step.peak_bytes, "eager_fp32_peak_bytes": eager.peak_bytes}
    return {
        "name": resolved.name,
        "overrides": resolved.overrides,
        "recipe_digest": resolved.digest,
        **compute.facts(),
        **{key: value for key, value in schedules[-1].items() if key in HEADLINES},
        **peaks,
        "schedules": schedules,
    }


def _measure(recipe: Recipe, number: int, compute: Compute, step: Worker, eager: Worker, rounds: int) -> dict[str, Any]:
    schedule = recipe.schedules[number]
    with Recorder() as recorder:  # eager: the compiled step calls the same products
        Step(recipe, replace(compute, compiled=False)).run(schedule)
    counted = Counter(recorder.products)
    prepared = [product.prepare() for product in recorder.products]
    for _ in range(3):
        step.run(number)
        eager.run(number)
    parts, product_seconds, eager_seconds = [], [], []
    for _ in range(rounds):
        parts.append(step.run(number))
        product_seconds.append(_seconds(lambda: [call() for call in prepared]))
        eager_seconds.append(eager.run(number)["step"])
    step_seconds = [sum(seconds.values()) for seconds in parts]
    seconds = statistics.median(step_seconds)
    tokens = recipe.phases[-1].batch_tokens
    return {
        "schedule": schedule.text,
        "step_seconds": seconds,
        "products_seconds": statistics.median(product_seconds),
        "eager_fp32_seconds": statistics.median(eager_seconds),
        "seconds_by_part": {part: statistics.median(seconds[part] for seconds in parts) for part in parts[0]},
        "speedup_over_eager_fp32": _median_ratio(eager_seconds, step_seconds),
        "fraction_of_roofline": _median_ratio(product_seconds, step_seconds),
        "tokens_per_second": tokens / seconds,
        "flops_per_second": tokens * flops_per_token(recipe.model, schedule, recipe.train.seq_len) / seconds,
        "page_faults_of_last_step": step.page_faults,
        "eager_fp32_page_faults_of_last_step": eager.page_faults,
        "product_flops_per_step": sum(product.flops() * times for product, times in counted.items()),
        "products_per_step": len(prepared),
    }


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _strided(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Make a tensor of small random values in the recorded layout; an expanded operand shares its memory as it did."""
    tensor = torch.empty_strided(shape, stride, dtype=dtype)
    storage = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,))
    storage.normal_(std=0.02)
    return tensor


if __name__ == "__main__":
    app()
