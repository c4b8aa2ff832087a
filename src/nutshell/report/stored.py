"""The stored files of a run directory, decoded into structs that hold only what a report shows.

    summary.json   the answer: score, bytes, proof, seconds by phase, the command
    run.json       the receipt of the training
    metrics.jsonl  one row per logged step
    describe.json  the shape of the model
    pack.json      bytes by section and bits by role; absent before packing
    recipe.toml    the resolved recipe, as text

Unlike a config, they may hold keys that no report shows. Each file's hash is kept, so that a report can name exactly
what it was made of.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nutshell.errors import RunError
from nutshell.files import sha256_bytes

T = TypeVar("T")


class Proof(msgspec.Struct, frozen=True):
    """The outcome of decoding a sample of the text from its arithmetic-coded bits."""

    ok: bool
    tokens: int
    documents: int
    claimed_bits: float
    coded_bits: float

    @property
    def excess_frac(self) -> float:
        """Coded bits over claimed bits, less one: what the coder cost beside the claim."""
        return self.coded_bits / self.claimed_bits - 1 if self.claimed_bits else 0.0


class TimeBudget(msgspec.Struct, frozen=True):
    """The seconds that a scoring had, what the whole text looked to take after its first chunk, and whether it kept."""

    seconds: float
    forecast_seconds: float
    kept: bool


class PublishedBytes(msgspec.Struct, frozen=True):
    """Bytes per token of a published export, and what its validation text has by the rule that they follow."""

    published: float
    found: float | None


class Score(msgspec.Struct, frozen=True):
    """A score with everything it must be quoted with."""

    bpb: float
    nats_per_token: float
    tokens: int
    bytes: int
    documents: int
    coverage: float
    strategy: dict[str, Any]
    disjoint_bpb: float | None = None
    stream_bpb: float | None = None
    schedule: str | None = None
    trained_schedule: str | None = None
    tokens_per_second: float | None = None
    budget: TimeBudget | None = None
    published_bytes_per_token: PublishedBytes | None = None

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens

    @property
    def made_how(self) -> dict[str, Any]:
        """What the strategy says of itself, its own settings behind what all have."""
        plain = {key: value for key, value in self.strategy.items() if key != "settings"}
        return plain | self.strategy.get("settings", {})

    @property
    def otherwise(self) -> dict[str, float]:
        """Bits per byte of the same artifact on the same text by other definitions, each named by its windows."""
        stored = {
            "disjoint windows, each document alone": self.disjoint_bpb,
            "disjoint windows over the stream, the field's definition": self.stream_bpb,
        }
        return {definition: bpb for definition, bpb in stored.items() if bpb is not None}


class Averages(msgspec.Struct, frozen=True):
    """What the weights of the last step and every average of them scored before packing; `packed` names the choice."""

    packed: str
    disjoint_bpb: dict[str, float]


class Summary(msgspec.Struct, frozen=True):
    """The answer of a run; what no stage has produced yet is None or empty."""

    name: str
    command: str
    bpb: float | None = None
    artifact: str | None = None
    artifact_bytes: int | None = None
    budget_bytes: int | None = None
    compressors: dict[str, float] = {}
    averages: Averages | None = None
    proof: Proof | None = None
    seconds: dict[str, float] = {}
    overrides: dict[str, Any] = {}

    @property
    def best_compressor(self) -> str | None:
        """The compressor with the fewest bits per byte."""
        return min(self.compressors, key=self.compressors.__getitem__, default=None)

    @property
    def saving_frac(self) -> float | None:
        """Bits per byte saved against the best compressor, as a fraction of its bits; negative if it does better."""
        if self.bpb is None or self.best_compressor is None:
            return None
        return 1 - self.bpb / self.compressors[self.best_compressor]


class Change(msgspec.Struct, frozen=True):
    """A condition that was another one when a training was resumed."""

    after_step: int
    condition: str
    before: str
    after: str


class Receipt(msgspec.Struct, frozen=True):
    """What a training ran on and from, so that it can be run again; `changes_on_resume` is what was another before."""

    recipe_digest: str
    data_digest: str
    tokenizer_sha256: str
    versions: dict[str, str]
    processor: str
    threads: int
    compute_dtype: str
    device: str
    seed: int
    steps: int
    tokens: int
    num_params: int
    changes_on_resume: list[Change] = []


class MetricsRow(msgspec.Struct, frozen=True):
    """One logged step; `seconds` on the training clock, `loss` in nats per token, `bpb` the estimate made of it.

    `schedule` is the one that this step ran, of those that its phase (counted from 0) draws from.
    """

    step: int
    progress: float
    seconds: float
    tokens: int
    loss: float
    bpb: float
    ms_per_step: float
    tokens_per_second: float
    phase: int
    schedule: str


class SkipIn(msgspec.Struct, frozen=True):
    """A skip as its target sees it: the virtual layer that it leaves from, and the name of its weights."""

    source: int
    key: str


class Active(msgspec.Struct, frozen=True):
    """A technique that acts at a visit; `value` is the number that depth gives it, `per_visit` marks own weights."""

    seam: str
    kind: str
    value: float | None = None
    per_visit: bool = False


class VirtualLayer(msgspec.Struct, frozen=True):
    """One visit to a block; `iteration` counts the visits this block had before.

    `weights` says of each branch whether its matrices are shared with other visits.
    """

    index: int
    block: int
    iteration: int
    skips_in: list[SkipIn]
    weights: dict[str, str]
    residual: str
    techniques: list[Active]


class Part(msgspec.Struct, frozen=True):
    """What one part of a model costs: parameters, and FLOPs a training token."""

    seam: str
    kind: str
    params: int
    flops_per_token: float


class Schedule(msgspec.Struct, frozen=True):
    """A depth schedule: its blocks in the order in which they run, and its skips between virtual layers."""

    schedule: str
    blocks: list[int]
    skips: list[tuple[int, int]]
    flops_per_token: float

    def __post_init__(self) -> None:
        _check_skips(self.skips, range(len(self.blocks)))


class PlannedPhase(msgspec.Struct, frozen=True):
    """A phase as the recipe plans it, between two fractions of the budget; its steps draw from the schedules.

    `batch_size` windows of `seq_len` tokens make a step; older files do not say.
    """

    begin: float
    until: float
    schedules: list[Schedule]
    batch_size: int | None = None
    seq_len: int | None = None
    quantized: bool = False


class Description(msgspec.Struct, frozen=True):
    """The shape and cost of a model, known before it is trained.

    Virtual layers and skips are those of the schedule that is packed and scored; `join` is how skips join the stream.
    `num_packed_params` leaves out what only the phases before it train; older files do not say.
    """

    name: str
    num_params: int
    params_by_role: dict[str, int]
    flops_per_token: float
    predicted_artifact_bytes: int
    virtual_layers: list[VirtualLayer]
    skips: list[tuple[int, int]]
    schedule: str
    join: str | None
    inputs: list[str]
    logits: list[str]
    norms: dict[str, str]
    parts: list[Part]
    phases: list[PlannedPhase]
    num_packed_params: int | None = None

    def __post_init__(self) -> None:
        _check_skips(self.skips, [layer.index for layer in self.virtual_layers])


def _check_skips(skips: Sequence[tuple[int, int]], layers: Collection[int]) -> None:
    if stray := [skip for skip in skips if not set(layers).issuperset(skip)]:
        raise ValueError(f"skip {list(stray[0])} joins no two virtual layers")


class Section(msgspec.Struct, frozen=True):
    """A named stretch of an artifact; `bits_per_value` for each element of its array, if it holds one."""

    name: str
    kind: str
    bytes: int
    bits_per_value: float | None = None


class RoleCost(msgspec.Struct, frozen=True):
    """What the weights of one role got, and what it cost; `nats_per_token` where a calibration says it."""

    role: str
    method: str
    num_weights: int
    num_bytes: int
    bits_per_weight: float
    relative_error: float
    steps: tuple[float, float] | None = None
    nats_per_token: float | None = None


class NextPercent(msgspec.Struct, frozen=True):
    """What one per cent more bytes would buy."""

    num_bytes: int
    bits_per_weight: float
    relative_error: float
    nats_per_token: float | None = None


class Ledger(msgspec.Struct, frozen=True):
    """Where the bytes of an artifact went, and what they bought; older files say only the first."""

    artifact_bytes: int
    sections: list[Section]
    budget_bytes: int | None = None
    margin_bytes: int = 0
    unused_bytes: int | None = None
    precision: dict[str, float] = {}
    bytes_by_kind: dict[str, int] = {}
    roles: list[RoleCost] = []
    next_percent: NextPercent | None = None


class Source(msgspec.Struct, frozen=True):
    """A file that a report was made of."""

    name: str
    bytes: int
    sha256: str


class StoredRun(msgspec.Struct, frozen=True):
    """Everything a report shows, and the files it came from; `score` and `ledger` are None before their stage."""

    summary: Summary
    score: Score | None
    receipt: Receipt
    metrics: list[MetricsRow]
    description: Description
    ledger: Ledger | None
    recipe: str
    sources: list[Source]


def read_run(run_dir: Path) -> StoredRun:
    """Read the files of a run.

    Raises:
        RunError: a file that every finished run has is missing, or one is damaged; the message names it.
    """
    names = ["summary.json", "run.json", "metrics.jsonl", "describe.json", "recipe.toml"]
    if (run_dir / "pack.json").exists():
        names.append("pack.json")
    contents = {name: _read(run_dir / name) for name in names}
    summary = _decode(contents["summary.json"], Summary, where=run_dir / "summary.json")
    return StoredRun(
        summary=summary,
        score=None if summary.bpb is None else _decode(contents["summary.json"], Score, where=run_dir / "summary.json"),
        receipt=_decode(contents["run.json"], Receipt, where=run_dir / "run.json"),
        metrics=[
            _decode(line, MetricsRow, where=f"{run_dir / 'metrics.jsonl'}, line {number}")
            for number, line in enumerate(contents["metrics.jsonl"].splitlines(), start=1)
        ],
        description=_decode(contents["describe.json"], Description, where=run_dir / "describe.json"),
        ledger=_decode(contents["pack.json"], Ledger, where=run_dir / "pack.json") if "pack.json" in contents else None,
        recipe=contents["recipe.toml"].decode(errors="backslashreplace"),
        sources=[Source(name=name, bytes=len(raw), sha256=sha256_bytes(raw)) for name, raw in contents.items()],
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(
            f"{path}: cannot read it ({error.strerror}); a report needs the files of a finished run"
        ) from error


def _decode(content: bytes, type_: type[T], *, where: Path | str) -> T:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{where}: damaged, or not written by nutshell ({error}); run that stage again") from error
