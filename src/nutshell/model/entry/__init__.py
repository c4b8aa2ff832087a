"""The kind table of what acts on the stream as a visit begins; one line adds one."""

from nutshell.model.entry.birkhoff import BirkhoffConfig
from nutshell.model.entry.depth_embedding import DepthEmbeddingConfig
from nutshell.model.entry.depth_sinusoid import DepthSinusoidConfig
from nutshell.model.entry.stream_smear import StreamSmearConfig
from nutshell.model.entry.x0_mix import X0MixConfig

EntryConfig = BirkhoffConfig | DepthEmbeddingConfig | DepthSinusoidConfig | StreamSmearConfig | X0MixConfig
