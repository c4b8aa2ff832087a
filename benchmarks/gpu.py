"""What one H100 or H200 makes of nutshell: are its fast paths right, how fast are they, where does the time go.

    PYTHONPATH=src python benchmarks/gpu.py --out FOLDER [--seconds 460]

Self-contained: it runs from the source tree on a bare machine with Python 3.12, torch 2.11 and no network. Beside torch
it imports numpy, safetensors, jaxtyping (with wadler-lindig), msgspec and tomli-w, which must be there or be carried as
wheels: fetch them with `pip download --no-deps --only-binary=:all: --python-version 3.12 --platform
manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d FOLDER NAME...`, and unpack them there with `pip install
--no-index --no-deps --target SITE FOLDER/*.whl` and `PYTHONPATH=src:SITE`.

Checks compare with plain eager code in higher precision, by |found - wanted| / |wanted|; TOLERANCES says what passes.
No GPU has been measured yet: those of bf16 are guesses from how it rounds, and so are the times and limits of a part. A
check that fails by a little says that a guess was wrong; look at its errors before the code.

Then come tokens per second, model FLOP utilisation (the FLOPs of model/accounting.py over the device's dense bf16 peak)
and memory, for each graph of three recipes: one GPU's share of the published batch for eight, so 48 windows of 2,048
tokens for the sp8192 recipes and 64 of 1,024 for `baseline`. Tokens are random and lie on the GPU. A step is all of it:
gradient, Muon and AdamW, average; timed with CUDA events, after warm-up, as the median of several repeats. After the
first of them, the operators of some of its steps, as torch's profiler counts them.

FOLDER/gpu.json is written anew after each part, so that a run cut short keeps what it has. The time is that of the
whole process, imports and all. A part starts only if MARGIN times the longest of its kind so far would still fit in
`--seconds`; what is left out is listed under `skipped`. A part that runs over its limit, or over the end, is ended and
has failed. `--tiny` runs every part at small sizes in fp32, on a CPU too, with nothing compiled.
"""

import argparse
import contextlib
import gc
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.files import write_json
from nutshell.machine import processor, versions
from nutshell.memory import peak_process_bytes
from nutshell.model.accounting import count_params, flops_per_token
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.nn.cache import DocumentIds
from nutshell.nn.kernels.attend import attend
from nutshell.nn.kernels.bounds import document_bounds
from nutshell.nn.kernels.choose import SETTINGS, activate, usable
from nutshell.nn.kernels.race import Work
from nutshell.nn.params import ParamRow, ParamTable
from nutshell.optim.config import MuonConfig, OptimConfig
from nutshell.optim.roles import Optimizers
from nutshell.pipeline.profiling import RECORDED_STEPS, WARM_STEPS, Profiler
from nutshell.recipe import Recipe, resolve
from nutshell.train import loss as loss_module
from nutshell.train.compute import Compute, choose_device
from nutshell.train.loss import TrainingLoss
from nutshell.train.state import TrainState

NUM_GPUS = 8  # of the published runs
RECIPES = ("sp8192-loop35", "baseline", "sp8192-loop36")
# Dense bf16, in FLOP/s, by the device's whole name: a GH200, an H200 NVL or a part of a GPU (MIG) has another peak.
# NVIDIA's data sheets of the H100 (SXM) and the H200.
PEAKS = {"NVIDIA H200": 989.4e12, "NVIDIA H100 80GB HBM3": 989.4e12}
# Relative errors, by what is compared and in which precision. bf16 rounds a number by up to 0.004.
TOLERANCES = {
    "attention": {"bf16": 0.01, "fp32": 1e-5},
    "loss": {"bf16": 1e-3, "fp32": 1e-5},
    "gradient": {"bf16": 0.03, "fp32": 1e-4},
    "worst_gradient": {"bf16": 0.15, "fp32": 1e-3},
    "muon": {"bf16": 0.05, "fp32": 1e-3},
}
# One parameter's gradient is judged by its own norm, or by this part of the whole gradient's if that is larger: the
# gradient of a gain is a sum that nearly cancels, and rounding decides the rest.
GRADIENT_FLOOR = 0.01
# Of a first part of a kind, when nothing tells: whole schedules are compiled in about a minute.
FIRST_GUESS = {"check": 20.0, "speed": 75.0, "profile": 60.0}
# A part takes at most this many times what the longest of its kind took, and at most so many seconds.
MARGIN = 1.25
LIMITS = {"check": 60.0, "speed": 150.0, "profile": 120.0}
TINY = (
    *("model.vocab_size=128", "model.model_dim=32", "model.mlp.mlp_dim=64"),
    *("model.attention.num_heads=2", "model.attention.num_kv_heads=1"),
    *("train.batch_size=16", "train.seq_len=32", "train.compile=never", "train.compute_dtype=fp32"),
    "score.stride=32",
)


class Sizes(NamedTuple):
    """How much of everything."""

    overrides: tuple[str, ...] = ()
    warm_up: int = 5
    repeats: int = 7
    steps: int = 5
    check_rows: int = 4
    attention: Work = Work(rows=2, seq_len=2048, num_heads=8, num_kv_heads=4, head_dim=64)
    matrices: tuple[int, int, int] = (11, 2048, 512)


class Part(NamedTuple):
    """One thing to find out; kinds share a guess of how long one takes."""

    name: str
    kind: str
    measure: Callable[[], dict[str, Any]]


TINY_SIZES = Sizes(
    overrides=TINY,
    warm_up=1,
    repeats=2,
    steps=1,
    check_rows=2,
    attention=Work(rows=2, seq_len=48, num_heads=4, num_kv_heads=2, head_dim=16),
    matrices=(3, 48, 32),
)


class OvertimeError(Exception):
    """A part has run over its limit."""


def main(arguments: Sequence[str] | None = None, *, age: float = 0.0) -> int:
    """Run all parts, `age` seconds after the time began; return 1 if one failed or found something wrong."""
    began = time.perf_counter() - age
    asked = _parse(arguments)
    device = choose_device()
    if device.type == "cpu" and not asked.tiny:
        print("gpu.py: no NVIDIA GPU here; --tiny runs every part at small sizes on a CPU", file=sys.stderr)
        return 2
    peak = _peak(device, asked.peak_tflops)
    if peak is None and not asked.tiny:
        name = torch.cuda.get_device_name(device)
        print(f"gpu.py: the peak of '{name}' is not known here; no utilisation without --peak-tflops", file=sys.stderr)
    sizes = TINY_SIZES if asked.tiny else Sizes()
    report = {**_facts(device), "peak_flops_per_second": peak, "tiny": asked.tiny, "budget_seconds": asked.seconds}
    asked.out.mkdir(parents=True, exist_ok=True)
    # Compiling takes a CPU minutes; other tests see what compiled code does there.
    torch.compiler.set_stance("force_eager" if asked.tiny else "default")
    parts = list(all_parts(sizes, device, peak))
    return run_parts(parts, report, asked.out / "gpu.json", seconds=asked.seconds, start=began)


def run_parts(parts: Sequence[Part], report: dict[str, Any], path: Path, *, seconds: float, start: float) -> int:
    """Run parts while there is time since `start`, and write the report after each; return 1 if one failed."""
    longest: dict[str, float] = {}
    report |= {"parts": {}, "failed": [], "skipped": []}
    for part in parts:
        began = time.perf_counter()
        left = seconds - (began - start)
        needed = MARGIN * longest[part.kind] if part.kind in longest else FIRST_GUESS[part.kind]
        if left <= (0.0 if report["tiny"] else needed):
            report["skipped"].append(part.name)
            print(f"{part.name}: skipped, {left:.0f} s are left", flush=True)
        else:
            found = _attempt(part, limit=min(left, LIMITS[part.kind]))
            took = time.perf_counter() - began
            longest[part.kind] = max(took, longest.get(part.kind, 0.0))
            report["parts"][part.name] = {**found, "seconds": took}
            if not found.get("ok", True):
                report["failed"].append(part.name)
            print(f"{part.name}: {_line(found)} ({took:.1f} s)", flush=True)
        report["seconds"] = time.perf_counter() - start
        write_json(path, report)
    return 1 if report["failed"] else 0


def all_parts(sizes: Sizes, device: torch.device, peak: float | None) -> Iterator[Part]:
    """List the parts, the most wanted first."""
    yield Part("check attention", "check", lambda: check_attention(sizes.attention, device))
    yield Part("check muon", "check", lambda: check_muon(sizes.matrices, device))
    first = _share(RECIPES[0], sizes)
    yield Part("check chunked loss", "check", lambda: check_chunks(first, sizes.check_rows))
    yield Part("check compiled", "speed", lambda: check_compiled(first, sizes.check_rows))
    for name in RECIPES:
        recipe = _share(name, sizes)
        for schedule in reversed(recipe.schedules):
            yield Part(
                f"{name} {schedule.text}",
                "speed",
                lambda recipe=recipe, schedule=schedule: measure_speed(recipe, schedule, sizes, device, peak),
            )
            if recipe == first and schedule == first.final_schedule:
                yield Part("profile", "profile", lambda: measure_profile(first, device))


def check_attention(work: Work, device: torch.device) -> dict[str, Any]:
    """Compare every usable kernel, and its gradients, with float64 products."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    errors: dict[str, float | str] = {}
    for within in (False, True):
        wanted_work = work._replace(within_documents=within)
        inputs = _attention_inputs(work, device, dtype)
        starts = torch.arange(work.seq_len, device=device) % (work.seq_len // 3) == 0
        starts = starts.repeat(work.rows, 1)
        number = starts.cumsum(dim=1)
        documents = DocumentIds(number, number, document_bounds(starts)) if within else None
        wanted = _with_gradients(lambda q, k, v, n=number if within else None: _attend_plainly(q, k, v, n), inputs)
        for name in usable(wanted_work, device, dtype):
            key = f"{name}{' within documents' if within else ''}"
            try:
                activate(name)
                kind = SETTINGS[name].kind
                found = _with_gradients(lambda q, k, v, d=documents, k_=kind: attend(q, k, v, k_, d), inputs, dtype)
                errors[key] = max(_error(one, other) for one, other in zip(found, wanted, strict=True))
            except (ImportError, RuntimeError) as error:  # the choice in training passes over such a kernel too
                errors[key] = f"refused: {error}".splitlines()[0]
    activate("fused")
    tolerance = TOLERANCES["attention"][_name_of(dtype)]
    measured = [error for error in errors.values() if isinstance(error, float)]
    return {"errors": errors, "tolerance": tolerance, "ok": bool(measured) and all(e <= tolerance for e in measured)}


def check_muon(shape: tuple[int, int, int], device: torch.device) -> dict[str, Any]:
    """Compare one step's updates with float64 loops over single matrices; Newton-Schulz and all."""
    number, rows, cols = shape
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(rows, cols, generator=generator).to(device) for _ in range(number))
    layers = [torch.nn.Parameter(matrix) for matrix in drawn]
    grads = [torch.randn(rows, cols, generator=generator) for _ in range(number)]
    table = ParamTable(tuple(ParamRow(str(index), "matrix", layer) for index, layer in enumerate(layers)))
    config = OptimConfig(muon=MuonConfig(row_norm=True), momentum=0.9, matrix_weight_decay=0.1, grad_clip=None)
    optimizers = Optimizers(table, config, dtype=dtype)
    before = [layer.detach().double().cpu() for layer in layers]
    for layer, grad in zip(layers, grads, strict=True):
        layer.grad = grad.to(device)
    optimizers.step(0.0)
    errors = [
        _error(layer.detach().double().cpu() - old, _muon_plainly(old, grad.double(), config) - old)
        for layer, old, grad in zip(layers, before, grads, strict=True)
    ]
    tolerance = TOLERANCES["muon"][_name_of(dtype)]
    return {"error": max(errors), "tolerance": tolerance, "ok": max(errors) <= tolerance}


def check_chunks(recipe: Recipe, rows: int) -> dict[str, Any]:
    """Compare the loss in pieces of one row, and its gradients, with torch's cross-entropy over all logits at once."""
    return _check_loss(recipe, rows, compiled=False, piece_bytes=1)


def check_compiled(recipe: Recipe, rows: int) -> dict[str, Any]:
    """Compare the compiled step, as it will train, with plain eager fp32."""
    return _check_loss(recipe, rows, compiled=True, piece_bytes=None)


def _check_loss(recipe: Recipe, rows: int, *, compiled: bool, piece_bytes: int | None) -> dict[str, Any]:
    compute = Compute.choose(recipe.train, recipe.model)
    compute.set_up()
    compute = replace(compute, compiled=compiled)
    model = _noisy_model(recipe, compute.device)
    schedule = recipe.final_schedule
    inputs, targets = _random_batch(recipe, rows, compute.device)
    activate("fused")  # torch's choice, since some kernels have no fp32
    logits = model(inputs, schedule)
    wanted_loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    wanted_loss.backward()
    wanted = _taken_gradients(model)
    del logits
    if compute.attention:
        activate(compute.attention)
    kept = dict(loss_module.MAX_LOGITS_BYTES)
    try:
        if piece_bytes is not None:
            loss_module.MAX_LOGITS_BYTES[compute.device.type] = piece_bytes
        loss = TrainingLoss(model, compute, recipe.train)(inputs, targets, schedule)
        loss.objective.backward()
    finally:
        loss_module.MAX_LOGITS_BYTES.update(kept)
    found = _taken_gradients(model)
    return _judged_loss(compute, loss.nats.item(), wanted_loss.item(), found, wanted)


def _judged_loss(
    compute: Compute, nats: float, wanted_nats: float, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Any]:
    whole = _flat(wanted).norm()
    errors = {
        name: ((found[name] - value).norm() / value.norm().clamp(min=GRADIENT_FLOOR * whole)).item()
        for name, value in wanted.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    measured = {
        "loss": abs(nats / wanted_nats - 1),
        "gradient": _error(_flat(found), _flat(wanted)),
        "worst_gradient": errors[worst],
    }
    tolerances = {name: TOLERANCES[name][compute.precision] for name in measured}
    return {
        **compute.facts(),
        "errors": measured,
        "worst": worst,
        "tolerances": tolerances,
        "ok": found.keys() == wanted.keys() and all(measured[name] <= tolerances[name] for name in measured),
    }


def measure_speed(
    recipe: Recipe, schedule: DepthSchedule, sizes: Sizes, device: torch.device, peak: float | None
) -> dict[str, Any]:
    """Time whole training steps, and the parts of a step."""
    step = Step(recipe, schedule)
    began = time.perf_counter()
    step.run()
    _synchronize(device)
    compile_seconds = time.perf_counter() - began
    for _ in range(sizes.warm_up):
        step.run()
    _synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    repeats, parts = [], []
    for _ in range(sizes.repeats):
        marks = [step.run() for _ in range(sizes.steps)]
        _synchronize(device)
        repeats.append(_seconds_between(marks[0][0], marks[-1][-1]) / sizes.steps)
        parts += [[_seconds_between(*pair) for pair in pairwise(mark)] for mark in marks]
    seconds = statistics.median(repeats)
    tokens = recipe.train.batch_size * recipe.train.seq_len
    flops = flops_per_token(recipe.model, schedule, recipe.train.seq_len)
    return {
        **step.compute.facts(),
        **step.compute.timings(),
        "schedule": schedule.text,
        "num_params": count_params(recipe.model, recipe.schedules),
        "batch_size": recipe.train.batch_size,
        "seq_len": recipe.train.seq_len,
        "tokens_per_step": tokens,
        "flops_per_token": flops,
        "first_step_seconds": compile_seconds,
        "step_seconds": seconds,
        "step_seconds_of_repeats": repeats,
        "seconds_by_part": {
            name: statistics.median(part[place] for part in parts) for place, name in enumerate(Step.PARTS)
        },
        "tokens_per_second": tokens / seconds,
        "model_flops_per_second": tokens * flops / seconds,
        "model_flop_utilisation": tokens * flops / seconds / peak if peak else None,
        "peak_memory_bytes": _peak_memory(device),
    }


def measure_profile(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Record some steps with torch's profiler, by stage and operator."""
    step, profiler = Step(recipe, recipe.final_schedule), Profiler(device)
    step.run()
    for _ in range(WARM_STEPS + RECORDED_STEPS):
        profiler.begin(0, recipe.final_schedule.text)
        step.run(profiler)
        profiler.end()
    return profiler.result()["phases"][0]


class Step:
    """One training step of a recipe under one schedule: gradient, optimizers, average."""

    PARTS = ("forward and loss", "backward", "optimizers", "average")

    def __init__(self, recipe: Recipe, schedule: DepthSchedule) -> None:
        self.compute, self.schedule = Compute.choose(recipe.train, recipe.model), schedule
        self.compute.set_up()
        model = LM(recipe.model, recipe.schedules)
        model.init_weights(0)
        model.to(self.compute.device)
        self.loss = TrainingLoss(model, self.compute, recipe.train)
        self.state = TrainState(model, recipe.train, recipe.optim, dtype=self.compute.dtype)
        self.inputs, self.targets = _random_batch(recipe, recipe.train.batch_size, self.compute.device)

    def run(self, profiler: Profiler | None = None) -> list[Any]:
        """Take a step of the middle of a run; return its marks in time, one more than there are parts."""
        marks = [_mark(self.compute.device)]
        loss = self.loss(self.inputs, self.targets, self.schedule)
        self._passed("loss", marks, profiler)
        loss.objective.backward()
        self._passed("backward", marks, profiler)
        self.state.optimizers.step(0.5)
        self._passed("optimizer", marks, profiler)
        self.state.spent.steps += 1
        self.state.average(0.5)
        self._passed("average", marks, profiler)
        return marks

    def _passed(self, stage: Any, marks: list[Any], profiler: Profiler | None) -> None:
        marks.append(_mark(self.compute.device))
        if profiler:
            profiler.done(stage)


def _mark(device: torch.device) -> Any:
    """Mark this point in time: of the GPU's work where there is one."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(start: Any, stop: Any) -> float:
    return stop - start if isinstance(start, float) else 1e-3 * start.elapsed_time(stop)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_process_bytes()


def _share(name: str, sizes: Sizes) -> Recipe:
    """Resolve a recipe with one GPU's share of its batch."""
    overrides = list(sizes.overrides)
    if overrides and resolve(name).recipe.model.attention.rotary.dims:
        overrides.append("model.attention.rotary.dims=4")
    recipe = resolve(name, overrides).recipe
    whole = recipe.train.batch_size
    return resolve(name, [*overrides, f"train.batch_size={whole // NUM_GPUS}"]).recipe


def _random_batch(recipe: Recipe, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(recipe.model.vocab_size, (rows, recipe.train.seq_len + 1), generator=generator).to(device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _noisy_model(recipe: Recipe, device: torch.device) -> LM:
    """Build a model in which no parameter is zero, so that all have gradients to compare."""
    model = LM(recipe.model, recipe.schedules)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=generator))
    return model.to(device)


def _taken_gradients(model: LM) -> dict[str, Tensor]:
    """Take the gradients off a model, in fp32."""
    found = {row.name: row.value.grad.float() for row in ParamTable.of(model) if row.value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def _error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()


def _name_of(dtype: torch.dtype) -> str:
    return "bf16" if dtype == torch.bfloat16 else "fp32"


def _attention_inputs(work: Work, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Draw queries, keys, values and the weights of the output in a loss, all as `dtype` has them."""
    generator = torch.Generator().manual_seed(0)
    heads = (work.num_heads, work.num_kv_heads, work.num_kv_heads, work.num_heads)
    shapes = [(work.rows, work.seq_len, number, work.head_dim) for number in heads]
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def _with_gradients(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Sequence[Tensor], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    *leaves, weight = (x.to(dtype) for x in inputs)
    for leaf in leaves:
        leaf.requires_grad_()
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, weight)]


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, number: Tensor | None) -> Tensor:
    """Attend by the definition, one row after the other."""
    group, length = q.shape[2] // k.shape[2], q.shape[1]
    rows = []
    for row in range(len(q)):
        keys, values = (x[row].repeat_interleave(group, dim=1) for x in (k, v))
        logits = torch.einsum("the,she->hts", q[row], keys) / q.shape[-1] ** 0.5
        seen = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
        if number is not None:
            seen = seen & (number[row][:, None] == number[row][None, :])
        rows.append(torch.einsum("hts,she->the", logits.masked_fill(~seen, float("-inf")).softmax(dim=-1), values))
    return torch.stack(rows)


def _muon_plainly(weight: Tensor, grad: Tensor, config: OptimConfig) -> Tensor:
    """Take the first step of Muon on one matrix in float64."""
    momentum, decay = 0.9, 0.1
    update = grad + momentum * grad
    if config.muon.row_norm:
        update = update / update.norm(dim=1, keepdim=True)
    rows, cols = update.shape
    x = update.T if rows > cols else update
    x = x / x.norm()
    for _ in range(config.muon.steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if rows > cols else x
    lr = config.matrix_lr
    return weight * (1 - lr * decay) - lr * max(1.0, rows / cols) ** 0.5 * x


def _attempt(part: Part, *, limit: float) -> dict[str, Any]:
    """Run a part from a clean state, for at most `limit` seconds; what goes wrong is its result."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        with _ended_after(limit):
            return part.measure()
    except Exception as error:  # one part that breaks must not cost the others their turn
        return {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End a block that runs over its time: at the next step of Python, so not within one operation of the device.

    Raises:
        OvertimeError: it did; again each second, for compilers pass over errors of what they try.
    """

    def end(signum: int, frame: object) -> None:
        raise OvertimeError(f"not done in {seconds:.0f} s")

    previous = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)


def _process_age() -> float:
    """Give the seconds since this process was started, by the kernel; 0 where it does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return max(0.0, age)


def _line(found: Mapping[str, Any]) -> str:
    """Say in a few words what a part found."""
    if "error" in found and isinstance(found["error"], str):
        return f"FAILED: {found['error'].splitlines()[0]}"
    if "tokens_per_second" in found:
        utilisation = found["model_flop_utilisation"]
        share = "" if utilisation is None else f", {100 * utilisation:.1f} % of the peak"
        memory = found["peak_memory_bytes"] / 1e9
        return (
            f"{found['tokens_per_second']:,.0f} tokens/s, {1e3 * found['step_seconds']:.1f} ms{share}, {memory:.1f} GB"
        )
    if "operators" in found:
        return f"{len(found['operators'])} operators"
    return f"{'ok' if found['ok'] else 'WRONG'} {found.get('errors', found.get('error'))}"


def _facts(device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {"device": "cpu", "processor": processor(), "versions": versions()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return facts


def _peak(device: torch.device, given_tflops: float | None) -> float | None:
    if given_tflops is not None:
        return 1e12 * given_tflops
    if device.type == "cpu":
        return None
    return PEAKS.get(torch.cuda.get_device_name(device))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--seconds", type=float, default=460.0, help="time budget of the whole run")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of a device that is not listed here")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on a CPU too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(age=_process_age()))
