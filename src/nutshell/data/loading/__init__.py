"""Training batches: which windows of the text an epoch has, in which order, and how a rank gets its rows of them."""

from nutshell.data.loading.config import CoprimeConfig, LoaderConfig, RingConfig, SequentialConfig, ShuffledConfig
from nutshell.data.loading.loader import Batch, Loader, build_loader
from nutshell.data.loading.prefetch import Prefetched

__all__ = [
    "Batch",
    "CoprimeConfig",
    "Loader",
    "LoaderConfig",
    "Prefetched",
    "RingConfig",
    "SequentialConfig",
    "ShuffledConfig",
    "build_loader",
]
