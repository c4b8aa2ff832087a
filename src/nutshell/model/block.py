"""A block: the weights that one or more virtual layers share, and how its two branches read the stream.

Each branch is `norm -> modulate -> act -> norm -> modulate`, with the norm before, after or on both sides as the recipe
says; the block's residual rule says how the branches change the stream.
"""

from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.attention import Attention
from nutshell.model.config import ModelConfig, NormPlace
from nutshell.model.depth import VirtualLayer
from nutshell.model.rows import of_visit
from nutshell.model.seams import BranchName, Place, Side, Stream
from nutshell.nn.norms import rms_norm


class Block(nn.Module):
    """Attention, MLP, the techniques that act on them, and the residual rule that joins them.

    A branch that is untied has weights of its own for each visit.
    """

    def __init__(self, config: ModelConfig, place: Place) -> None:
        super().__init__()
        self.norms = config.norms
        self.attentions = nn.ModuleList(
            Attention(config.attention, config.values, config.heads, own) for own in config.copies("attention", place)
        )
        self.mlps = nn.ModuleList(config.mlp.build(config.model_dim) for _ in config.copies("mlp", place))
        self.modulate_input = _modulations(config, "input", place)
        self.modulate_output = _modulations(config, "output", place)
        self.residual = config.residual.build(place)
        self.keeps_first = any(kind.keeps_first for kind in config.values)

    def forward(self, state: Any, visit: VirtualLayer, stream: Stream) -> tuple[Any, Float[Tensor, "B T K E"] | None]:
        """Run one virtual layer on the residual rule's state; give the new state.

        The first virtual layer also gives its values, where a technique reads them later.
        """
        used: list[Tensor] = []
        attention = partial(self._attend, visit=visit, stream=stream, used=used)
        mlp = partial(self._expand, visit=visit, stream=stream)
        state = self.residual(state, visit, attention, mlp, stream)
        keep = self.keeps_first and stream.first_values is None
        return state, used[0] if keep else None

    def _attend(self, x: Tensor, *, visit: VirtualLayer, stream: Stream, used: list[Tensor]) -> Tensor:
        h = self._enter(x, "attention", self.norms.attention, visit, stream)
        z, values = of_visit(self.attentions, visit)(h, visit, stream)
        used.append(values)
        return self._leave(z, "attention", self.norms.attention, visit, stream)

    def _expand(self, x: Tensor, *, visit: VirtualLayer, stream: Stream) -> Tensor:
        h = self._enter(x, "mlp", self.norms.mlp, visit, stream)
        z = of_visit(self.mlps, visit)(h, stream.projector(visit))
        return self._leave(z, "mlp", self.norms.mlp, visit, stream)

    def _enter(self, x: Tensor, branch: BranchName, norm: NormPlace, visit: VirtualLayer, stream: Stream) -> Tensor:
        h = x if norm == "output" else rms_norm(x)
        for technique in self.modulate_input:
            h = technique(h, branch, visit, stream)
        return h

    def _leave(self, z: Tensor, branch: BranchName, norm: NormPlace, visit: VirtualLayer, stream: Stream) -> Tensor:
        z = z if norm == "pre" else rms_norm(z)
        for technique in self.modulate_output:
            z = technique(z, branch, visit, stream)
        return z


def _modulations(config: ModelConfig, side: Side, place: Place) -> nn.ModuleList:
    return nn.ModuleList(kind.build(place) for kind in config.modulate if kind.side == side and kind.acts_in(place))
