"""The kind table of the matrices in a block, and which shapes a kind may have; one line adds one."""

from nutshell.nn.kronecker import KroneckerConfig
from nutshell.nn.low_rank import LowRankConfig
from nutshell.nn.projection import DenseConfig

MatrixConfig = DenseConfig | LowRankConfig | KroneckerConfig


def check_matrix(name: str, kind: MatrixConfig, in_dim: int, out_dim: int) -> None:
    """Refuse factors that save nothing.

    Raises:
        ValueError: they have as many weights as the dense matrix, or more.
    """
    num_params, dense = kind.num_params(in_dim, out_dim), in_dim * out_dim
    if not isinstance(kind, DenseConfig) and num_params >= dense:
        raise ValueError(
            f"{name}: '{kind.__struct_config__.tag}' saves nothing from {in_dim} to {out_dim} channels: "
            f"{num_params:,} weights, 'dense' has {dense:,}"
        )
