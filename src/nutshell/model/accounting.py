"""What a model costs, from its configuration alone: parameters and FLOPs."""

from collections.abc import Sequence

from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.seams import Place


def count_params(config: ModelConfig, schedules: Sequence[DepthSchedule]) -> int:
    """Count the parameters of `LM(config, schedules)` without building it."""
    dims = config.dims
    tables = dims.vocab_size * dims.model_dim * (1 if config.tied_head else 2)
    skips = {skip.key for schedule in schedules for skip in schedule.skips}
    outside = sum(kind.num_params(dims) for kind in (*config.inputs, *config.logits))
    outside += sum(kind.num_table_params(dims) for kind in config.values)
    return (
        tables
        + sum(_block_params(config, place) for place in config.places(schedules))
        + len(skips) * config.depth.join.num_params(dims)
        + config.residual.num_carry_params(dims)
        + outside
    )


def _block_params(config: ModelConfig, place: Place) -> int:
    attention = sum(
        config.attention.num_params(own)
        + sum(kind.num_params(own) for kind in (*config.values, *config.heads) if kind.acts_in(own))
        for own in config.copies("attention", place)
    )
    mlp = config.mlp.num_params(config.model_dim) * len(config.copies("mlp", place))
    modulate = sum(kind.num_params(place) for kind in config.modulate if kind.acts_in(place))
    return attention + mlp + modulate + config.residual.num_params(place)


def flops_per_token(config: ModelConfig, schedule: DepthSchedule, seq_len: int) -> float:
    """Count the FLOPs of one training token: the matrix products of the forward, three times.

    A product costs two FLOPs a weight; attention costs `4 H E (T + 1) / 2` a token and visit.
    Elementwise work is left out, as in the usual model FLOP count (Chowdhery et al. 2022, appendix B).
    """
    dims = config.dims
    outside = sum(kind.flops(dims) for kind in config.inputs) + sum(kind.table_flops(dims) for kind in config.values)
    branches = config.attention.flops(dims.model_dim, seq_len) + config.mlp.flops(dims.model_dim)
    visits = 0.0
    for visit in schedule.visits:
        place = Place(dims, visit.block, schedule.num_visits(visit.block))
        in_block = (*config.modulate, *config.values, *config.heads, *config.residual.entry)
        visits += branches + sum(kind.flops(place) for kind in in_block if kind.acts_in(place))
    return 3.0 * (visits + outside + 2 * dims.vocab_size * dims.model_dim)
