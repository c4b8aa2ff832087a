"""Packers on the same trained weights: real artifacts beside each other, and bytes at equal bits per byte.

Every artifact has the same recipe and tokenizer sections; its size is that of the whole file. The field's stack is
GPTQ with int6 matrices and an int8 embedding under SDClip, byte shuffle and brotli-11: its settings are swept (both
numbers of deviations, Hessians of inputs and of gradients, the embedding by GPTQ or rounded), and of all of them the
best at each size make its curve. A gap is bits a weight above what normal rows would need for the same Hessian-weighted
error.
"""

import itertools
import json
import math
import time
import tomllib
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import tomli_w
import torch
from jaxtyping import Float64

from nutshell.artifact.config import PackConfig, TrainingText
from nutshell.artifact.container import Container, Section, pack_container, unpack_container
from nutshell.artifact.load import Loaded, load, read_weight
from nutshell.artifact.pack import Contents, Packed, Packer
from nutshell.codec.chain import Chain
from nutshell.codec.limits import gaussian_rate_bits
from nutshell.config.loader import decode
from nutshell.data.dataset import Dataset
from nutshell.files import sha256_file
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.pipeline import store
from nutshell.pipeline.calibrating import calibrate_model
from nutshell.pipeline.weights import unpacked_model
from nutshell.predict.predictor import ModelPredictor
from nutshell.quant.calibrate import Metric
from nutshell.quant.config import GptqConfig, QuantRole, QuantRule, RtnConfig, TrellisConfig
from nutshell.quant.grids import AbsmaxGrid, SdClipGrid, SlopeGrid
from nutshell.quant.statistics import Statistics
from nutshell.recipe import Recipe
from nutshell.score.frozen import score_documents
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan
from nutshell.train.checkpoint import read_tensors

MATRICES: tuple[QuantRole, ...] = ("matrix", "projection")
TABLES: tuple[QuantRole, ...] = ("embedding", "head")
ROLES = MATRICES + TABLES
PUBLISHED_SIGMAS = (12.85, 20.0)
LARGEST_BUDGET = 2**40
# How the field's stack quantizes the embedding.
Table = Literal["gptq", "rtn"]


@dataclass(frozen=True)
class Settings:
    """What is swept."""

    calibration_tokens: int = 16_384
    matrix_sigmas: tuple[float, ...] = (9.0, 12.85, 18.0, 25.0)
    table_sigmas: tuple[float, ...] = (7.0, 10.0, 14.0, 20.0)
    rates: tuple[float, ...] = (1.2, 1.5, 1.8, 2.1, 2.4, 2.8, 3.2, 3.7, 4.3)
    states: tuple[int, ...] = (8, 32, 256)
    metrics: tuple[Metric, ...] = ("gradients", "inputs")
    documents: int | None = None  # of the validation text, spread evenly; all unless given


@dataclass(frozen=True)
class Measured:
    """One artifact."""

    packer: str
    coder: str
    setting: str
    num_bytes: int
    bits_per_weight: float
    gap_bits: float
    predicted_nats: float
    bpb: float
    pack_seconds: float
    load_seconds: float


@dataclass(frozen=True)
class Trained:
    """A trained run, and all that packers and scores need of it."""

    contents: Contents
    table: ParamTable
    documents: Documents
    statistics: Mapping[Metric, Mapping[str, Statistics]]
    spectrum: Float64[np.ndarray, " W"]
    exact_bpb: float

    @classmethod
    def open(cls, run_dir: Path, data_dir: Path, settings: Settings) -> Self:
        """Read a run, score it as trained, and calibrate by both metrics."""
        text = _recipe_text(run_dir)
        recipe = decode(tomllib.loads(text), Recipe, where="recipe")
        weights, _ = read_tensors(run_dir / store.WEIGHTS)
        with torch.device("meta"):
            table = ParamTable.of(LM(recipe.model, [recipe.final_schedule]))
        tokenizer = (run_dir / store.TOKENIZER).read_bytes()
        contents = Contents.of(weights, table, recipe=text, tokenizer=tokenizer)
        names = [row.name for row in table if row.role in ROLES and len(row.shape) == 2]
        model = unpacked_model(recipe.model, recipe.final_schedule, run_dir / store.WEIGHTS)
        dataset = Dataset.open(data_dir)
        calibrated = partial(
            calibrate_model, model, recipe, source="training", tokens=settings.calibration_tokens, dataset=dataset
        )
        metrics = dict.fromkeys(("gradients", *settings.metrics))
        statistics = {metric: calibrated(names=names, metric=metric) for metric in metrics}
        loaded = load(_packed(contents, (), {}).content)
        exact = Loaded(model, loaded.schedule, loaded.tokenizer, loaded.context, loaded.stride, text)
        _, documents = store.open_documents(data_dir, loaded)
        count = len(documents.ids)
        documents = documents.take(np.arange(0, count, count / min(settings.documents or count, count)).astype(int))
        spectrum = _spectrum(contents, statistics["gradients"])
        return cls(contents, table, documents, statistics, spectrum, _bpb(exact, documents))

    def measure(
        self, packer: str, coder: str, setting: str, content: bytes, *, num_bytes: int | None = None, seconds: float
    ) -> Measured:
        """Load an artifact, score it and hold it against the bound."""
        start = time.perf_counter()
        loaded = load(content)
        load_seconds = time.perf_counter() - start
        container = unpack_container(content)
        known = self.statistics["gradients"]
        rows = [row for row in self.table if row.name in known]
        nats = sum(known[row.name].cost(read_weight(container, row) - self.contents.weights[row.name]) for row in rows)
        frame = len(content) - sum(_num_bytes(container, row.name) for row in rows)
        size = len(content) if num_bytes is None else num_bytes
        bits = 8 * (size - frame) / len(self.spectrum)
        bound = gaussian_rate_bits(self.spectrum, 2 * nats / len(self.spectrum))
        bpb = _bpb(loaded, self.documents)
        return Measured(packer, coder, setting, size, bits, bits - bound, nats, bpb, seconds, load_seconds)


def measure_all(
    run_dir: Path,
    data_dir: Path,
    settings: Settings,
    tell: Callable[[str], None],
    *,
    known: Mapping[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Pack a run by every stack at every setting.

    Args:
        run_dir: a trained run, whose rules of packing do not matter.
        data_dir: the data that it was trained on.
        settings: what is swept.
        tell: is given a line for each artifact.
        known: an earlier report; artifacts that it has of the same weights and calibration are not made again.
        save: is given the report after each setting.
    """
    trained = Trained.open(run_dir, data_dir, settings)
    frame = {
        "weights_sha256": sha256_file(run_dir / store.WEIGHTS),
        "exact_bpb": trained.exact_bpb,
        "weights": len(trained.spectrum),
        "calibration_tokens": settings.calibration_tokens,
        "documents": len(trained.documents.ids),
    }
    same = known is not None and all(known.get(key) == value for key, value in frame.items())
    rows = [Measured(**row) for row in known["results"]] if known and same else []
    for made in _artifacts(trained, settings, {(row.packer, row.setting) for row in rows}):
        rows.extend(made)
        for row in made:
            tell(line(row, trained.exact_bpb))
        save(_report(frame, rows))
    return _report(frame, rows)


def _report(frame: Mapping[str, Any], rows: Sequence[Measured]) -> dict[str, Any]:
    return {**answer(rows), **frame, "results": [asdict(row) for row in rows]}


def line(row: Measured, exact_bpb: float) -> str:
    """Give a row as a line of a table."""
    return (
        f"{row.packer:14} {row.coder:10} {row.setting:34} {row.num_bytes:10,} {row.bits_per_weight:6.3f} bits "
        f"gap {row.gap_bits:6.3f}  bpb {row.bpb:.5f} ({row.bpb - exact_bpb:+.5f})  "
        f"{row.pack_seconds:6.1f} s, load {row.load_seconds:.2f} s"
    )


def answer(rows: Sequence[Measured]) -> dict[str, Any]:
    """Compare the two curves of bytes against bits per byte where both have been measured.

    The headline is at what the field reaches with its published deviations; the least and the most saving are over the
    whole common range. Without both curves there is no answer yet.
    """
    field = frontier(row for row in rows if row.packer == "gptq" and row.coder == "brotli")
    ours = frontier(row for row in rows if row.packer.startswith("trellis"))
    if not field or not ours:
        return {}
    low, high = max(field[-1].bpb, ours[-1].bpb), min(field[0].bpb, ours[0].bpb)
    common = np.linspace(low, high, 33) if low <= high else np.empty(0)
    savings = [saving(field, ours, bpb) for bpb in common]
    place = min((row.bpb for row in rows if row.packer == "gptq" and _is_published(row.setting)), default=None)
    curves = {packer: frontier(row for row in rows if row.packer == packer) for packer in _trellises(rows)}
    return {
        "fewer_bytes_percent_at_equal_bpb": _saving_at(place, field, ours),
        "equal_bpb": place,
        "least_percent": min(savings, default=None),
        "most_percent": max(savings, default=None),
        "common_bpb": [low, high],
        "percent_by_packer": {packer: _saving_at(place, field, curve) for packer, curve in curves.items()},
        "points": [len(field), len(ours)],
    }


def _trellises(rows: Iterable[Measured]) -> list[str]:
    return list(dict.fromkeys(row.packer for row in rows if row.packer.startswith("trellis")))


def _saving_at(bpb: float | None, field: Sequence[Measured], ours: Sequence[Measured]) -> float | None:
    """Give the saving where both curves have been measured."""
    if bpb is None or not all(curve[-1].bpb <= bpb <= curve[0].bpb for curve in (field, ours)):
        return None
    return saving(field, ours, bpb)


def frontier(rows: Iterable[Measured]) -> list[Measured]:
    """Keep the artifacts that no other beats in both size and bits per byte, by rising size."""
    kept: list[Measured] = []
    for row in sorted(rows, key=lambda row: (row.num_bytes, row.bpb)):
        if not kept or row.bpb < kept[-1].bpb:
            kept.append(row)
    return kept


def saving(field: Sequence[Measured], ours: Sequence[Measured], bpb: float) -> float:
    """Say how many per cent fewer bytes the second curve takes at a number of bits per byte that both cover."""
    return 100 * (1 - math.exp(_log_bytes(ours, bpb) - _log_bytes(field, bpb)))


def _log_bytes(curve: Sequence[Measured], bpb: float) -> float:
    falling = curve[::-1]
    return float(np.interp(bpb, [row.bpb for row in falling], [math.log(row.num_bytes) for row in falling]))


def _artifacts(trained: Trained, settings: Settings, done: Collection[tuple[str, str]]) -> Iterable[Sequence[Measured]]:
    """Make the artifacts of all settings but those that are done, those of a setting together."""
    if ("rtn int8", "absmax") not in done:
        yield [_naive(trained)]
    for states, rate in itertools.product(settings.states, settings.rates):
        if (f"trellis {states}", f"{rate:g} bits") not in done:
            yield [_ours(trained, states, rate)]
    tables: tuple[Table, ...] = ("gptq", "rtn")
    fields = itertools.product(settings.metrics, tables, settings.matrix_sigmas, settings.table_sigmas)
    for metric, table, matrix_sigmas, table_sigmas in fields:
        setting = _setting(metric, table, matrix_sigmas, table_sigmas)
        if ("gptq", setting) not in done:
            yield list(_field(trained, metric, table, matrix_sigmas, table_sigmas))


def _ours(trained: Trained, states: int, rate: float) -> Measured:
    """Measure a trellis with feedback, under one slope for all weights."""
    rule = TrellisConfig(roles=ROLES, grid=SlopeGrid(), states=states, feedback=True)
    start = time.perf_counter()
    content = _packed(trained.contents, (rule,), trained.statistics["gradients"], rate).content
    seconds = time.perf_counter() - start
    return trained.measure(f"trellis {states}", f"trellis{states}", f"{rate:g} bits", content, seconds=seconds)


def _naive(trained: Trained) -> Measured:
    """Round to nearest int8, and zlib, which the container lacks: its bytes are counted instead of the raw ones."""
    rule = RtnConfig(roles=ROLES, grid=AbsmaxGrid(bits=8))
    start = time.perf_counter()
    content = recoded(_packed(trained.contents, (rule,), {}), ("raw",))
    payloads = [section.payload for section in unpack_container(content).sections.values() if section.kind == "codes"]
    num_bytes = len(content) - sum(map(len, payloads)) + sum(len(zlib.compress(each, 9)) for each in payloads)
    seconds = time.perf_counter() - start
    return trained.measure("rtn int8", "zlib", "absmax", content, num_bytes=num_bytes, seconds=seconds)


def _field(
    trained: Trained, metric: Metric, table: Table, matrix_sigmas: float, table_sigmas: float
) -> Iterable[Measured]:
    """Measure one setting of the field's stack; at the published deviations by other coders too."""
    method = GptqConfig if table == "gptq" else RtnConfig
    rules = (
        GptqConfig(roles=MATRICES, grid=SdClipGrid(bits=6, sigmas=matrix_sigmas)),
        method(roles=TABLES, grid=SdClipGrid(bits=8, sigmas=table_sigmas)),
    )
    setting = _setting(metric, table, matrix_sigmas, table_sigmas)
    start = time.perf_counter()
    packed = _packed(trained.contents, rules, trained.statistics[metric])
    packed_at = time.perf_counter()
    content = recoded(packed, ("shuffle", "brotli"))
    seconds = time.perf_counter() - start
    yield trained.measure("gptq", "brotli", setting, content, seconds=seconds)
    if (matrix_sigmas, table_sigmas) == PUBLISHED_SIGMAS:
        yield trained.measure("gptq", "ans", setting, packed.content, seconds=packed_at - start)
        begin = time.perf_counter()
        content = recoded(packed, ("shuffle", "lzma"))
        seconds = packed_at - start + time.perf_counter() - begin
        yield trained.measure("gptq", "xz", setting, content, seconds=seconds)


def recoded(packed: Packed, chain: Chain) -> bytes:
    """Give the artifact with its codes coded by another chain."""
    sections = [
        Section.encode(each.name, each.kind, array=each.decode(), chain=chain) if each.kind == "codes" else each
        for each in packed.container.sections.values()
    ]
    return pack_container(sections, packed.container.metadata)


def _packed(
    contents: Contents, rules: tuple[QuantRule, ...], statistics: Mapping[str, Statistics], rate: float | None = None
) -> Packed:
    calibration = TrainingText() if any(rule.uses_statistics for rule in rules) else None
    config = PackConfig(budget_bytes=LARGEST_BUDGET, rules=rules, calibration=calibration)
    return Packer(contents, config, statistics).pack(rate)


def _recipe_text(run_dir: Path) -> str:
    """Give the run's recipe without its rules of packing: they are the benchmark's."""
    recipe = tomllib.loads((run_dir / store.RECIPE).read_text(encoding="utf-8"))
    recipe["pack"] = {"budget_bytes": recipe["pack"]["budget_bytes"], "rules": []}
    return tomli_w.dumps(recipe)


def _spectrum(contents: Contents, statistics: Mapping[str, Statistics]) -> Float64[np.ndarray, " W"]:
    """Give the variances, in the metric of the loss, of the axes of all quantized weights."""
    parts = []
    for name, known in statistics.items():
        axes = torch.linalg.eigvalsh(known.hessian).clamp_min(0.0)
        rows = contents.weights[name].double().square().mean(dim=1) * known.row_weights
        parts.append(torch.outer(rows, axes).flatten().numpy())
    return np.concatenate(parts)


def _bpb(loaded: Loaded, documents: Documents) -> float:
    plan = WindowPlan(context=loaded.context, stride=loaded.context)
    return score_documents(ModelPredictor(loaded), documents, plan).bpb


def _num_bytes(container: Container, name: str) -> int:
    return sum(len(section.payload) for (owner, _), section in container.sections.items() if owner == name)


def _setting(metric: str, table: Table, matrix_sigmas: float, table_sigmas: float) -> str:
    return f"{metric}, {table} table, {matrix_sigmas:g} / {table_sigmas:g}"


def _is_published(setting: str) -> bool:
    return setting.endswith("{:g} / {:g}".format(*PUBLISHED_SIGMAS))


def show(report: dict[str, Any]) -> None:
    """Print the answer."""
    print(json.dumps({key: value for key, value in report.items() if key != "results"}, indent=2))
