"""Training speed on this CPU: tokens/s, FLOP/s, and the fraction of the roofline.

    python benchmarks/train_cpu.py [--recipe demo] [--rounds 12] [--json] [--out results/train_cpu.json]

The roofline is the time that the step's matrix products take alone: every product of one step (forward, backward and
Newton-Schulz) is recorded with its shapes, strides and precision, and all run back to back on their own tensors. The
fraction is that time over the time of the whole step. Both are measured alternately in one run, since timings drift.
"""

import json as json_module
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cyclopts import App
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nutshell.files import write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.model.accounting import flops_per_token
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.recipe import Recipe, resolve
from nutshell.train.compute import Compute
from nutshell.train.loss import TrainingLoss
from nutshell.train.state import TrainState

app = App(help=__doc__)
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
        if self.state.average:
            self.state.average.update(1000)
        marks.append(time.perf_counter())
        parts = ("forward", "backward", "optimizers", "average")
        return {part: stop - start for part, start, stop in zip(parts, marks, marks[1:], strict=False)}


@app.default
def main(*, recipe: str = "demo", rounds: int = 12, json: bool = False, out: Path | None = None) -> None:
    """Measure a recipe's training step on this machine."""
    torch.set_num_threads(num_threads())
    resolved = resolve(recipe)
    compute = Compute.choose(resolved.recipe.train, resolved.recipe.model)
    results = [_measure(resolved.recipe, schedule, compute, rounds) for schedule in resolved.recipe.schedules]
    report = {
        "recipe": resolved.name,
        "recipe_digest": resolved.digest,
        "processor": processor(),
        "versions": versions(),
        **compute.facts(),
        "fraction_of_roofline": results[-1]["fraction_of_roofline"],
        "schedules": results,
    }
    if out:
        write_json(out, report)
    if json:
        print(json_module.dumps(report))
        return
    for result in results:
        print(
            f"{result['schedule']:16} {result['tokens_per_second']:>9,.0f} tokens/s  "
            f"{result['flops_per_second'] / 1e9:>6.0f} GFLOP/s  {1e3 * result['step_seconds']:>6.0f} ms/step  "
            f"{result['fraction_of_roofline']:.2f} of the roofline"
        )


def _measure(recipe: Recipe, schedule: DepthSchedule, compute: Compute, rounds: int) -> dict[str, Any]:
    with Recorder() as recorder:  # eager: the compiled step calls the same products
        Step(recipe, Compute(compute.dtype, compute.attend_kind, compiled=False)).run(schedule)
    counted = Counter(recorder.products)
    prepared = [product.prepare() for product in recorder.products]
    step = Step(recipe, compute)
    for _ in range(3):
        step.run(schedule)
    parts, product_seconds = [], []
    for _ in range(rounds):
        parts.append(step.run(schedule))
        product_seconds.append(_seconds(lambda: [call() for call in prepared]))
    step_seconds = [sum(seconds.values()) for seconds in parts]
    ratios = [alone / whole for alone, whole in zip(product_seconds, step_seconds, strict=True)]
    seconds = statistics.median(step_seconds)
    tokens = recipe.phases[-1].batch_tokens
    return {
        "schedule": schedule.text,
        "step_seconds": seconds,
        "products_seconds": statistics.median(product_seconds),
        "seconds_by_part": {part: statistics.median(seconds[part] for seconds in parts) for part in parts[0]},
        "fraction_of_roofline": statistics.median(ratios),
        "tokens_per_second": tokens / seconds,
        "flops_per_second": tokens * flops_per_token(recipe.model, schedule, recipe.train.seq_len) / seconds,
        "product_flops_per_step": sum(product.flops() * times for product, times in counted.items()),
        "products_per_step": len(prepared),
    }


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
