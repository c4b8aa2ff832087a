"""Attribution: what packing cost, by role, by block and by visit, and how near each matrix came to the best possible.

A loss is that of the model as trained with one group of its weights as they came back from the artifact. Losses of
groups need not add up to that of all: errors interact. All are measured on the same text, so that what is the same in
both models cancels; the standard error is over windows.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.artifact.container import Container, unpack_container
from nutshell.codec.limits import gaussian_rate_bits
from nutshell.data.dataset import Dataset
from nutshell.errors import RunError, UsageError
from nutshell.files import sha256_bytes, sha256_file, write_json
from nutshell.machine import num_threads
from nutshell.model.depth import DepthSchedule, VirtualLayer
from nutshell.model.lm import LM
from nutshell.model.probes.drift import drift
from nutshell.model.probes.readings import VisitDrift
from nutshell.model.probes.trace import eager_twin
from nutshell.nn.params import ParamTable
from nutshell.pipeline import store
from nutshell.pipeline.calibrating import SEED, calibrate_model
from nutshell.pipeline.weights import unpacked_model
from nutshell.quant.statistics import Statistics
from nutshell.recipe import Recipe
from nutshell.score.text import Documents
from nutshell.units import bits_per_byte

Progress = Callable[[int, int], object]

# Of the validation text, from its beginning on; and of the training text, for the curvature.
TOKENS, CALIBRATION_TOKENS = 16_384, 65_536
# Tokens that one forward of a loss reads, and those whose streams are compared: a stream is kept for every visit.
BATCH_TOKENS, DRIFT_TOKENS = 2_048, 2_048
OUTSIDE = "outside"


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """A group of weights.

    Attributes:
        group: A role; the number of a block, or `outside` of all blocks.
        weights: How many.
        num_bytes: What their sections take in the artifact.
        lost_bpb: Loss of packing this group alone.
        error_bpb: Its standard error.
        predicted_bpb: What the curvature of the loss predicts, of the group's quantized matrices.
    """

    group: str
    weights: int
    num_bytes: int
    lost_bpb: float
    error_bpb: float
    predicted_bpb: float


class VisitRow(msgspec.Struct, frozen=True, kw_only=True):
    """A virtual layer.

    Attributes:
        index: Of the layer; `block` and `iteration` are its lasting name.
        lost_bpb: Loss of packing its block's weights at this visit alone.
        error_bpb: Its standard error.
        stream_error: Relative error of the stream after it, all weights packed.
        growth: That over the one after the block's visit before; None at its first.
    """

    index: int
    block: int
    iteration: int
    lost_bpb: float
    error_bpb: float
    stream_error: float
    growth: float | None


class MatrixRow(msgspec.Struct, frozen=True, kw_only=True):
    """A quantized matrix against the rate-distortion bound of normal rows, errors weighted by the loss' curvature.

    Attributes:
        name: Of the parameter; `role` is its role.
        weights: How many.
        bits_per_weight: Coded, with all that decoding needs.
        bound_bits: The least that any code of so small an error would take, were each row normal with its variance.
        gap_bits: The difference.
        predicted_bpb: What the error is expected to cost.
    """

    name: str
    role: str
    weights: int
    bits_per_weight: float
    bound_bits: float
    gap_bits: float
    predicted_bpb: float


def explain(run_dir: Path, data_dir: Path, *, tokens: int = TOKENS, progress: Progress | None = None) -> dict[str, Any]:
    """Say what packing a run cost and where; write and return what was found.

    Args:
        run_dir: a packed run.
        data_dir: the data it was trained on.
        tokens: of the validation text, rounded up to whole windows.
        progress: told how many of the losses are measured.

    Raises:
        RunError: the run is not packed, or its artifact is not of its weights.
        UsageError: there are no tokens.
    """
    if tokens < 1:
        raise UsageError(f"pack: --explain needs at least one token, got {tokens}")
    start = time.perf_counter()
    torch.set_num_threads(num_threads())
    recipe = store.read_recipe(run_dir)
    ledger = store.read_stage(run_dir / store.LEDGER, remedy="pack the run first")
    weights_sha256 = sha256_file(run_dir / store.WEIGHTS)
    content, loaded = store.open_artifact(run_dir / store.ARTIFACT)
    if ledger.get("weights_sha256") != weights_sha256 or ledger.get("artifact_sha256") != sha256_bytes(content):
        raise RunError(f"{run_dir}: {store.ARTIFACT} was not made of these weights; pack the run again")
    dataset, documents = store.open_documents(data_dir, loaded)
    exact = unpacked_model(recipe.model, recipe.final_schedule, run_dir / store.WEIGHTS)
    text = _Text.of(documents, loaded.context, tokens)
    attribution = _Attribution(_Pair(exact, loaded.model, recipe.final_schedule), text, progress)
    matrices = attribution.matrices(unpack_container(content), _curvature(exact, loaded.model, recipe, dataset))
    result = {
        "tokens": text.targets.numel(),
        "bytes": text.num_bytes,
        "exact_bpb": text.bpb(attribution.nats.sum().item()),
        "lost_bpb": attribution.lost(attribution.pair.packed)[0],
        **attribution.groups(unpack_container(content), matrices),
        "visits": attribution.visits(),
        "matrices": matrices,
        "calibration_tokens": CALIBRATION_TOKENS,
        "artifact_sha256": sha256_bytes(content),
        "weights_sha256": weights_sha256,
        "data_digest": dataset.digest,
        "seconds": time.perf_counter() - start,
    }
    plain = msgspec.to_builtins(result)
    write_json(run_dir / store.EXPLANATION, plain)
    return plain


class _Text(NamedTuple):
    """Windows of one stream, [N T] each, and the bytes that the targets stand for."""

    inputs: Tensor
    targets: Tensor
    num_bytes: int

    @classmethod
    def of(cls, documents: Documents, context: int, tokens: int) -> "_Text":
        """Cut the first windows; a text shorter than a window is one by itself."""
        track = documents.stream()
        length = min(context, len(track.targets))
        count = min(-(-tokens // length), len(track.targets) // length)
        inputs, targets, byte_lengths = (part[: count * length].astype(np.int64) for part in track)
        shape = (count, length)
        return cls(torch.from_numpy(inputs).view(shape), torch.from_numpy(targets).view(shape), int(byte_lengths.sum()))

    def bpb(self, nats: float) -> float:
        return bits_per_byte(nats, self.num_bytes)

    @torch.inference_mode()
    def nats(self, model: LM, schedule: DepthSchedule) -> Float64[Tensor, " N"]:
        """Give each window's code length."""
        size = max(1, BATCH_TOKENS // self.inputs.shape[1])
        parts = []
        for inputs, targets in zip(self.inputs.split(size), self.targets.split(size), strict=True):
            losses = F.cross_entropy(model(inputs, schedule).flatten(0, 1), targets.flatten(), reduction="none")
            parts.append(losses.view(targets.shape).double().sum(dim=1))
        return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A model as trained and as packed, and what is between them."""

    exact: LM
    packed: LM
    schedule: DepthSchedule

    def mixed(self, names: Collection[str]) -> LM:
        """Give the model as trained, with some weights as packed."""
        packed = self.packed.state_dict()
        model = eager_twin(self.exact, [self.schedule])
        model.load_state_dict({name: packed[name] for name in names}, strict=False, assign=True)
        return model

    def at_visit(self, visit: VirtualLayer) -> LM:
        """Give the model as trained, one visit of a block with the block's weights as packed."""
        model = self.mixed(())
        model.blocks[visit.block] = _Visited(self.exact.blocks[visit.block], self.packed.blocks[visit.block], visit)
        return model


class _Visited(nn.Module):
    """A block with other weights at one visit."""

    def __init__(self, exact: nn.Module, packed: nn.Module, visit: VirtualLayer) -> None:
        super().__init__()
        self.exact, self.packed, self.visit = exact, packed, visit

    def forward(self, state: Any, visit: VirtualLayer, stream: Any) -> Any:
        return (self.packed if visit == self.visit else self.exact)(state, visit, stream)


class _Attribution:
    """Measures losses against those of the model as trained."""

    def __init__(self, pair: _Pair, text: _Text, progress: Progress | None) -> None:
        self.pair, self._text = pair, text
        self._table = _table_of(pair.exact, pair.schedule)
        self._blocks = {row.name: _block_of(row.name) for row in self._table}
        roles, blocks = {row.role for row in self._table}, set(self._blocks.values())
        self._progress, self._done = progress, 0
        self._total = 2 + len(roles) + len(blocks) + pair.schedule.num_layers
        self.nats = self._measured(pair.exact)

    def lost(self, model: LM) -> tuple[float, float]:
        """Give what a model loses in bits per byte, and the standard error of that."""
        difference = self._measured(model) - self.nats
        deviation = difference.std().item() if len(difference) > 1 else math.nan
        return self._text.bpb(difference.sum().item()), self._text.bpb(deviation * math.sqrt(len(difference)))

    def groups(self, container: Container, matrices: Sequence[MatrixRow]) -> dict[str, list[GroupRow]]:
        """Pack one role, then one block at a time."""
        by_role = {row.name: row.role for row in self._table}
        return {
            "roles": self._grouped(by_role, container, matrices),
            "blocks": self._grouped(self._blocks, container, matrices),
        }

    def visits(self) -> list[VisitRow]:
        """Pack one block at one visit at a time; beside it how far the whole packing moves the stream there."""
        count = max(1, DRIFT_TOKENS // self._text.inputs.shape[1])
        inputs, targets = self._text.inputs[:count], self._text.targets[:count]
        twin = eager_twin(self.pair.packed, [self.pair.schedule])
        moved = drift(self.pair.mixed(()), twin, self.pair.schedule, inputs, targets)
        return [
            self._visited(visit, reading)
            for visit, reading in zip(self.pair.schedule.visits, moved.visits, strict=True)
        ]

    def matrices(self, container: Container, curvature: dict[str, Statistics]) -> list[MatrixRow]:
        """Hold each quantized matrix against the bound."""
        exact, packed = self.pair.exact.state_dict(), self.pair.packed.state_dict()
        nats_to_bpb = self._text.bpb(self._text.targets.numel())
        rows = []
        for row in self._table:
            if (row.name, "codes") not in container.sections:
                continue
            known, weight = curvature[row.name], exact[row.name]
            nats = known.cost(packed[row.name] - weight)
            bits = 8 * _num_bytes(container, [row.name]) / weight.numel()
            bound = _bound(weight, known, nats)
            rows.append(
                MatrixRow(
                    name=row.name,
                    role=row.role,
                    weights=weight.numel(),
                    bits_per_weight=bits,
                    bound_bits=bound,
                    gap_bits=bits - bound,
                    predicted_bpb=nats * nats_to_bpb,
                )
            )
        return rows

    def _grouped(self, group_of: dict[str, str], container: Container, matrices: Sequence[MatrixRow]) -> list[GroupRow]:
        rows = []
        for group in dict.fromkeys(group_of.values()):
            names = [name for name, other in group_of.items() if other == group]
            lost, error = self.lost(self.pair.mixed(names))
            rows.append(
                GroupRow(
                    group=group,
                    weights=sum(row.value.numel() for row in self._table if row.name in names),
                    num_bytes=_num_bytes(container, names),
                    lost_bpb=lost,
                    error_bpb=error,
                    predicted_bpb=sum(row.predicted_bpb for row in matrices if row.name in names),
                )
            )
        return rows

    def _visited(self, visit: VirtualLayer, moved: VisitDrift) -> VisitRow:
        lost, error = self.lost(self.pair.at_visit(visit))
        return VisitRow(
            index=visit.index,
            block=visit.block,
            iteration=visit.iteration,
            lost_bpb=lost,
            error_bpb=error,
            stream_error=moved.error,
            growth=moved.growth,
        )

    def _measured(self, model: LM) -> Float64[Tensor, " N"]:
        nats = self._text.nats(model, self.pair.schedule)
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)
        return nats


def _table_of(model: LM, schedule: DepthSchedule) -> ParamTable:
    """List a model's parameters with their roles, which weights that were read from a file have lost."""
    with torch.device("meta"):
        return ParamTable.of(LM(model.config, [schedule]))


def _curvature(exact: LM, packed: LM, recipe: Recipe, dataset: Dataset) -> dict[str, Statistics]:
    """Measure the curvature at every matrix that packing changed and a product or a look-up reads.

    On other text than packing was calibrated on: feedback has fitted its errors to that.
    """
    table = _table_of(exact, recipe.final_schedule).with_role("matrix", "projection", "embedding", "head", "gate")
    before, after = exact.state_dict(), packed.state_dict()
    names = [row.name for row in table if len(row.shape) == 2 and not torch.equal(before[row.name], after[row.name])]
    return calibrate_model(
        exact, recipe, source="training", tokens=CALIBRATION_TOKENS, names=names, dataset=dataset, seed=SEED + 1
    )


def _bound(weight: Tensor, known: Statistics, nats: float) -> float:
    """Give the least bits a weight at which normal rows have an error that costs so many nats."""
    axes = torch.linalg.eigvalsh(known.hessian).clamp_min(0.0)
    rows = weight.double().square().mean(dim=1) * known.row_weights
    return gaussian_rate_bits(torch.outer(rows, axes).flatten().numpy(), 2 * nats / weight.numel())


def _block_of(name: str) -> str:
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "blocks" else OUTSIDE


def _num_bytes(container: Container, names: Collection[str]) -> int:
    return sum(len(section.payload) for (name, _), section in container.sections.items() if name in names)
