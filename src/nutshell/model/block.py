"""A block: the weights that one or more virtual layers share, and how its two branches read the stream.

Each branch is `norm -> modulate -> act`; the block's residual rule says how the branches change the stream.
"""

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.config import ModelConfig
from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import Stream
from nutshell.nn.kernels.attend import attend
from nutshell.nn.norms import rms_norm
from nutshell.nn.params import filled
from nutshell.nn.projection import Projection


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalised q and k, rotary positions and a learned gain for each query head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dims = config.dims
        self.head_dim = dims.head_dim
        self.q = Projection(dims.model_dim, dims.num_heads * dims.head_dim)
        self.k = Projection(dims.model_dim, dims.num_kv_heads * dims.head_dim)
        self.v = Projection(dims.model_dim, dims.num_kv_heads * dims.head_dim)
        self.out = Projection(dims.num_heads * dims.head_dim, dims.model_dim)
        self.q_gain = filled((dims.num_heads,), config.q_gain, "gain")
        self.heads = nn.ModuleList(technique.build(dims) for technique in config.heads)

    def forward(self, h: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        q, k, v = (project(h).unflatten(-1, (-1, self.head_dim)) for project in (self.q, self.k, self.v))  # B T heads E
        q = stream.rotary.turn(rms_norm(q)) * self.q_gain[:, None].to(q.dtype)
        k = stream.rotary.turn(rms_norm(k))
        keys, values = (k, v) if stream.cache is None else stream.cache.extend(visit.index, k, v)
        y = attend(q, keys, values, stream.attend_kind)
        for technique in self.heads:
            y = technique(y, v, visit, stream)
        return self.out(y.flatten(2))


class Block(nn.Module):
    """Attention, MLP, the techniques that act on them, and the residual rule that joins them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = config.mlp.build(config.model_dim)
        self.modulate = nn.ModuleList(technique.build(config.dims) for technique in config.modulate)
        self.residual = config.residual.build(config.dims)

    def forward(self, state: Any, visit: VirtualLayer, stream: Stream) -> Any:
        """Run one virtual layer on the residual rule's state."""
        attention = partial(self._attend, visit=visit, stream=stream)
        mlp = partial(self._expand, visit=visit, stream=stream)
        return self.residual(state, visit, attention, mlp)

    def _attend(self, x: Float[Tensor, "B T D"], *, visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        return self.attention(self._prepare(x, visit, stream), visit, stream)

    def _expand(self, x: Float[Tensor, "B T D"], *, visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        return self.mlp(self._prepare(x, visit, stream))

    def _prepare(self, x: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        h = rms_norm(x)
        for technique in self.modulate:
            h = technique(h, visit, stream)
        return h
