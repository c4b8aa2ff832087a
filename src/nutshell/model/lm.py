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
from nutshell.nn.adapters import HEAD
from nutshell.nn.cache import DocumentIds, KVCache, shift
from nutshell.nn.init import draw_weights
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.kernels.bounds import document_bounds
from nutshell.nn.norms import rms_norm
from nutshell.nn.params import Normal, ParamTable, parameter
from nutshell.nn.projection import Projection
from nutshell.nn.rotary import Rotary


class LM(nn.Module):
    """A decoder over a vocabulary, for a declared set of depth schedules.

    Args:
        config: sizes and techniques.
        schedules: every schedule that will be run; each visit and each skip of each of them gets its weights.
    """

    def __init__(self, config: ModelConfig, schedules: Sequence[DepthSchedule]) -> None:
        super().__init__()
        dims = config.dims
        assert all(schedule.num_blocks <= dims.num_blocks for schedule in schedules)
        self.config = config
        width = config.embedding_width
        self.embedding = parameter(torch.empty(dims.vocab_size, width), "embedding", Normal(config.embedding_std))
        self.embedding_project = self.head_project = None
        if width != dims.model_dim:
            self.embedding_project = Projection(width, dims.model_dim, role="projection")
            self.head_project = Projection(dims.model_dim, width, role="projection")
        self.inputs = nn.ModuleList(kind.build(dims) for kind in config.inputs)
        tables = {str(kind.__struct_config__.tag): kind.build_table(dims) for kind in config.values}
        self.tables = nn.ModuleDict({tag: table for tag, table in tables.items() if table is not None})
        self.blocks = nn.ModuleList(Block(config, place) for place in config.places(schedules))
        keys = dict.fromkeys(skip.key for schedule in schedules for skip in schedule.skips)
        self.skips = nn.ModuleDict({key: config.depth.join.build(dims) for key in keys})
        self.carry = config.residual.build_carry(dims)
        self.head = None
        if not config.tied_head:
            self.head = Projection(width, dims.vocab_size, role="head", draw="zero")
        self.logits = nn.ModuleList(kind.build(dims) for kind in config.logits)

    def init_weights(self, seed: int) -> None:
        """Draw the first weights; nn/init.py says how."""
        generator = torch.Generator(device=self.embedding.device).manual_seed(seed)
        draw_weights(ParamTable.of(self), self.config.matrix_init, generator)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        schedule: DepthSchedule,
        *,
        dtype: torch.dtype = torch.float32,
        attend_kind: AttendKind = "fused",
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Compute the logits of every position's next token, as fp32 numbers; `read_out` says how exact they are.

        With a cache, `tokens` continue what the cache has seen, and it has seen them too afterwards.
        """
        stream = self.stream(tokens, dtype=dtype, attend_kind=attend_kind, cache=cache)
        x = self.trunk(stream, schedule)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.read_out(x, stream)

    def stream(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        dtype: torch.dtype,
        attend_kind: AttendKind,
        cache: KVCache | None = None,
        rotary_base: float | None = None,
    ) -> Stream:
        """Embed the tokens, and collect the other facts of one forward that they alone decide.

        `rotary_base` is that of the positions: by default the one of windows of as many tokens as a cache has room
        for, or as are given.
        """
        if rotary_base is None:
            window = tokens.shape[1] if cache is None else cache.capacity
            rotary_base = self.config.attention.rotary.base_in(window, self.config.rotary_dims)
        rotary = Rotary.at(
            0 if cache is None else cache.position,
            tokens.shape[1],
            dims=self.config.rotary_dims,
            base=rotary_base,
            device=tokens.device,
            far=cache is not None and cache.forgotten > 0,
        )
        stream = Stream(
            tokens=tokens,
            previous=shift(tokens, -1, cache, "tokens"),
            x0=self._embed(tokens, dtype),
            rotary=rotary,
            dtype=dtype,
            attend_kind=attend_kind,
            cache=cache,
            documents=self._documents(tokens, attend_kind, cache) if self.config.attention.within_documents else None,
            tables={name: table(tokens, dtype) for name, table in self.tables.items()},
        )
        x = stream.x0
        for technique in self.inputs:
            x = technique(x, stream)
        return stream._replace(x0=x)

    def trunk(self, stream: Stream, schedule: DepthSchedule) -> Float[Tensor, "B T M"]:
        """Run the virtual layers, saving what a later skip needs and nothing else; give what the head reads.

        That is the last state, or its projection to the embedding's width, which is normalised before.
        """
        # A copy, not an alias: compiled code would be specialised to the first block's stream being x0.
        state = self.carry.start(stream.x0.clone())
        sources = {skip.source for skip in schedule.skips}
        saved = {}
        for visit in schedule.visits:
            for skip in schedule.skips_into(visit):
                joined = self.skips[skip.key](self.carry.read(state), saved[skip.source])
                state = self.carry.write(state, joined)
            state, values = self.blocks[visit.block](state, visit, stream)
            if values is not None:
                stream = stream._replace(first_values=values)
            if visit in sources:
                saved[visit] = self.carry.read(state)
        x = self.carry.finish(state)
        return x if self.head_project is None else self.head_project(rms_norm(x))

    @property
    def head_weight(self) -> Float[Tensor, "V M"]:
        """The matrix of the head: one of its own, or the embedding."""
        return self.embedding if self.head is None else self.head.weight

    def read_out(
        self, x: Float[Tensor, "B T M"], stream: Stream, head_weight: Float[Tensor, "V M"] | None = None
    ) -> Float[Tensor, "B T V"]:
        """Turn what the trunk gives into logits: fp32 numbers, of a product in the stream's dtype.

        In bf16, as training may run, each is rounded to bf16 before the `logits` techniques act; what that costs is in
        docs/techniques/head.md. Scoring is fp32 throughout. A matrix that is given takes the place of the head's.
        """
        weight = self.head_weight if head_weight is None else head_weight
        h = rms_norm(x) if self.head_project is None else x
        z = F.linear(h, weight.to(stream.dtype))
        if stream.adapters is not None:
            z = stream.adapters.correct(z, h, HEAD)
        z = z.float()
        for technique in self.logits:
            z = technique(z, stream)
        return z

    def _embed(self, tokens: Int[Tensor, "B T"], dtype: torch.dtype) -> Float[Tensor, "B T D"]:
        x = F.embedding(tokens, self.embedding).to(dtype)
        return x if self.embedding_project is None else self.embedding_project(rms_norm(x))

    def _documents(self, tokens: Int[Tensor, "B T"], attend_kind: AttendKind, cache: KVCache | None) -> DocumentIds:
        starts = tokens == self.config.bos_id
        if cache is not None:
            return cache.extend_documents(starts)
        numbers = starts.cumsum(dim=1)
        return DocumentIds(numbers, numbers, document_bounds(starts) if attend_kind == "varlen" else None)
