"""What a model costs, from its configuration alone: parameters and FLOPs."""

from collections.abc import Sequence

from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule


def count_params(config: ModelConfig, schedules: Sequence[DepthSchedule]) -> int:
    """Count the parameters of `LM(config, schedules)` without building it."""
    dims = config.dims
    attention = 2 * dims.model_dim * dims.head_dim * (dims.num_heads + dims.num_kv_heads) + dims.num_heads
    mlp = 2 * dims.model_dim * config.mlp.mlp_dim
    in_block = sum(technique.num_params(dims) for technique in (*config.modulate, *config.heads, config.residual))
    outside = sum(technique.num_params(dims) for technique in (*config.inputs, *config.logits))
    skips = {skip.key for schedule in schedules for skip in schedule.skips}
    return (
        dims.vocab_size * dims.model_dim
        + dims.num_blocks * (attention + mlp + in_block)
        + len(skips) * dims.model_dim
        + outside
    )


def flops_per_token(config: ModelConfig, schedule: DepthSchedule, seq_len: int) -> float:
    """Count the FLOPs of one training token: the matrix products of the forward, three times.

    A product costs two FLOPs a weight; attention costs `4 H E (T + 1) / 2` a token and visit.
    Elementwise work is left out, as in the usual model FLOP count (Chowdhery et al. 2022, appendix B).
    """
    dims = config.dims
    projections = 2 * dims.model_dim * dims.head_dim * (dims.num_heads + dims.num_kv_heads)
    mlp = 2 * dims.model_dim * config.mlp.mlp_dim
    attention = 4 * dims.num_heads * dims.head_dim * (seq_len + 1) / 2
    head = 2 * dims.vocab_size * dims.model_dim
    return 3.0 * (schedule.num_layers * (2 * (projections + mlp) + attention) + head)
