"""The language model: embed, run the schedule, read out. The forward is written here, once.

Training, scoring in windows and stepping one token at a time through a cache are the same lines: the cache is a fact of
the stream.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.block import Block
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.seams import Stream
from nutshell.nn import init
from nutshell.nn.cache import KVCache
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.norms import rms_norm
from nutshell.nn.params import filled, parameter
from nutshell.nn.projection import Projection
from nutshell.nn.rotary import Rotary


class LM(nn.Module):
    """A decoder over a vocabulary, for a declared set of depth schedules.

    Args:
        config: sizes and techniques.
        schedules: every schedule that will be run; each skip of each of them gets its weights.
    """

    def __init__(self, config: ModelConfig, schedules: Sequence[DepthSchedule]) -> None:
        super().__init__()
        dims = config.dims
        assert all(schedule.num_blocks <= dims.num_blocks for schedule in schedules)
        self.config = config
        self.embedding = parameter(torch.empty(dims.vocab_size, dims.model_dim), "embedding")
        self.blocks = nn.ModuleList(Block(config) for _ in range(dims.num_blocks))
        self.skip_scales = nn.ParameterDict(
            {skip.key: filled((dims.model_dim,), 1.0, "scale") for schedule in schedules for skip in schedule.skips}
        )
        self.inputs = nn.ModuleList(technique.build(dims) for technique in config.inputs)
        self.logits = nn.ModuleList(technique.build(dims) for technique in config.logits)

    def init_weights(self, seed: int) -> None:
        """Draw the initial weights; everything not listed was filled with its constant when it was made.

        embedding                      normal, std `embedding_std`
        projections into a branch      orthogonal (q, k, v, up)
        projections out of a branch    zero (out, down): every branch starts silent
        """
        generator = torch.Generator(device=self.embedding.device).manual_seed(seed)
        init.normal(self.embedding, self.config.embedding_std, generator)
        for name, module in self.named_modules():
            if isinstance(module, Projection):
                if name.endswith((".out", ".down")):
                    nn.init.zeros_(module.weight)
                else:
                    init.orthogonal(module.weight, generator)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        schedule: DepthSchedule,
        *,
        dtype: torch.dtype = torch.float32,
        attend_kind: AttendKind = "fused",
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Compute the logits of every position's next token, in fp32.

        With a cache, `tokens` continue what the cache has seen, and it has seen them too afterwards.
        """
        stream = self.stream(tokens, dtype=dtype, attend_kind=attend_kind, cache=cache)
        x = self.trunk(stream, schedule)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.read_out(x, stream)

    def stream(
        self, tokens: Int[Tensor, "B T"], *, dtype: torch.dtype, attend_kind: AttendKind, cache: KVCache | None = None
    ) -> Stream:
        """Collect the facts of one forward."""
        rotary = Rotary.at(
            0 if cache is None else cache.length,
            tokens.shape[1],
            dims=self.config.rotary_dims,
            base=self.config.rotary.base,
            device=tokens.device,
        )
        return Stream(tokens=tokens, rotary=rotary, dtype=dtype, attend_kind=attend_kind, cache=cache)

    def trunk(self, stream: Stream, schedule: DepthSchedule) -> Float[Tensor, "B T D"]:
        """Embed and run the virtual layers, saving what a later skip needs and nothing else."""
        x = F.embedding(stream.tokens, self.embedding).to(stream.dtype)
        for technique in self.inputs:
            x = technique(x, stream)
        state = self.config.residual.start(x)
        sources = {skip.source for skip in schedule.skips}
        saved = {}
        for visit in schedule.visits:
            for skip in schedule.skips_into(visit):
                state = state.join(self.skip_scales[skip.key].to(stream.dtype) * saved[skip.source])
            state = self.blocks[visit.block](state, visit, stream)
            if visit in sources:
                saved[visit] = state.read()
        return state.finish()

    def read_out(self, x: Float[Tensor, "B T D"], stream: Stream) -> Float[Tensor, "B T V"]:
        """Turn the last state into logits, in fp32."""
        z = F.linear(rms_norm(x), self.embedding.to(stream.dtype)).float()
        for technique in self.logits:
            z = technique(z, stream)
        return z
