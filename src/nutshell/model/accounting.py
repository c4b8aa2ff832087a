"""What a model costs, from its configuration alone: parameters and FLOPs, in all and by part."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nutshell.config.struct import Kind, kind_of
from nutshell.model.config import AtVisit, ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.seams import Place


class Part(NamedTuple):
    """A part of a model by the names that recipes have for it: the seam, a path below `model`, and the kind there."""

    seam: str
    kind: str


# What attention has beside its matrices: the gain on the queries, and the products of queries, keys and values.
ATTEND = Part("attention", "attend")


def count_params(config: ModelConfig, schedules: Sequence[DepthSchedule]) -> int:
    """Count the parameters of `LM(config, schedules)` without building it."""
    return sum(params_by_part(config, schedules).values())


def params_by_part(config: ModelConfig, schedules: Sequence[DepthSchedule]) -> dict[Part, int]:
    """Count the parameters of `LM(config, schedules)` by part, in the order of the forward; parts may have none."""
    dims = config.dims
    table = dims.vocab_size * config.embedding_width
    skips = {skip.key for schedule in schedules for skip in schedule.skips}
    counts: Counter[Part] = Counter({Part("embedding", "table"): table, **_projection(config, "embedding")})
    for kind in config.inputs:
        counts[_part("inputs", kind)] += kind.num_params(dims)
    for kind in config.values:
        counts[_part("values", kind)] += kind.num_table_params(dims)
    if skips:
        counts[_part("depth.join", config.depth.join)] += len(skips) * config.depth.join.num_params(dims)
    for place in config.places(schedules):
        for part, number in _block_params(config, place):
            counts[part] += number
    counts[_part("residual", config.residual)] += config.residual.num_carry_params(dims)
    counts.update(_projection(config, "head"))
    counts[_head(config)] += 0 if config.tied_head else table
    for kind in config.logits:
        counts[_part("logits", kind)] += kind.num_params(dims)
    return dict(counts)


def _block_params(config: ModelConfig, place: Place) -> Iterator[tuple[Part, int]]:
    yield from _seam_params("residual.entry", config.residual.entry, place)
    yield from _seam_params("modulate", config.modulate, place)
    for own in config.copies("attention", place):
        for name, (kind, shape) in config.attention.matrices(config.model_dim).items():
            yield _part(f"attention.{name}", kind), kind.num_params(*shape)
        yield ATTEND, config.attention.num_gains(own)
        yield from _seam_params("values", config.values, own)
        yield from _seam_params("heads", config.heads, own)
    for _ in config.copies("mlp", place):
        yield _part("mlp", config.mlp), config.mlp.num_params(config.model_dim)
    yield _part("residual", config.residual), config.residual.num_params(place)


def _seam_params(seam: str, kinds: Sequence[AtVisit], place: Place) -> Iterator[tuple[Part, int]]:
    yield from ((_part(seam, kind), kind.num_params(place)) for kind in kinds if kind.acts_in(place))


def flops_per_token(config: ModelConfig, schedule: DepthSchedule, seq_len: int) -> float:
    """Count the FLOPs of one training token: the matrix products of the forward, three times.

    A product costs two FLOPs a weight; attention costs `4 H E (T + 1) / 2` a token and visit.
    Elementwise work is left out, as in the usual model FLOP count (Chowdhery et al. 2022, appendix B); that one counts
    `4 H E T` for attention, all T x T pairs, while here it is those that a causal model reads, about half as many.
    """
    return sum(flops_by_part(config, schedule, seq_len).values())


def flops_by_part(config: ModelConfig, schedule: DepthSchedule, seq_len: int) -> dict[Part, float]:
    """Count the FLOPs of one training token by part, as `flops_per_token` does; parts may have none."""
    dims = config.dims
    forward: defaultdict[Part, float] = defaultdict(float)
    for seam in ("embedding", "head"):
        for part, number in _projection(config, seam).items():
            forward[part] += 2 * number
    for kind in config.inputs:
        forward[_part("inputs", kind)] += kind.flops(dims)
    for kind in config.values:
        forward[_part("values", kind)] += kind.table_flops(dims)
    for visit in schedule.visits:
        place = Place(dims, visit.block, schedule.num_visits(visit.block))
        for part, number in _visit_flops(config, place, seq_len):
            forward[part] += number
    forward[_head(config)] += 2 * dims.vocab_size * config.embedding_width
    return {part: 3.0 * number for part, number in forward.items()}


def _visit_flops(config: ModelConfig, place: Place, seq_len: int) -> Iterator[tuple[Part, float]]:
    for name, (kind, shape) in config.attention.matrices(config.model_dim).items():
        yield _part(f"attention.{name}", kind), kind.flops(*shape)
    yield ATTEND, config.attention.attend_flops(config.model_dim, seq_len)
    yield _part("mlp", config.mlp), config.mlp.flops(config.model_dim)
    seams: dict[str, Sequence[AtVisit]] = {
        "residual.entry": config.residual.entry,
        "modulate": config.modulate,
        "values": config.values,
        "heads": config.heads,
    }
    for seam, kinds in seams.items():
        yield from ((_part(seam, kind), kind.flops(place)) for kind in kinds if kind.acts_in(place))


def _projection(config: ModelConfig, seam: str) -> dict[Part, int]:
    """Count the weights between the embedding's width and the model's on one side; there are none if they are equal."""
    if config.embedding_dim is None:
        return {}
    return {Part(seam, "project"): config.embedding_dim * config.model_dim}


def _head(config: ModelConfig) -> Part:
    return Part("head", "tied" if config.tied_head else "dense")


def _part(seam: str, kind: Kind) -> Part:
    return Part(seam, kind_of(kind))
