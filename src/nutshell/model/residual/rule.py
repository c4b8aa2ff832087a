"""What residual rules share: the `entry` list, and the state that is just the stream."""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind, kind_of
from nutshell.model.depth import VirtualLayer
from nutshell.model.entry import EntryConfig
from nutshell.model.seams import Dims, Place, Stream


class RuleKind(Kind, frozen=True, kw_only=True):
    """Base of the residual rules: what acts on the stream as a visit begins, in order."""

    entry: tuple[EntryConfig, ...] = ()

    def build_carry(self, dims: Dims) -> "SingleStream":
        return SingleStream()

    def num_params(self, place: Place) -> int:
        """Count the parameters of one block."""
        return sum(kind.num_params(place) for kind in self.entry if kind.acts_in(place))

    def num_carry_params(self, dims: Dims) -> int:
        """Count the parameters that no block holds."""
        return 0

    def form_in(self, block: int) -> str:
        """Name the form in which a block's branches change the stream: the rule's own, unless it says otherwise."""
        return kind_of(self)

    def check(self, blocks: tuple[int, ...]) -> None:
        """Refuse a schedule, given as its sequence of blocks, that the rule cannot run.

        Raises:
            ValueError: a setting does not fit it, or acts nowhere.
        """


class SingleStream(nn.Module):
    """A state that is the stream, [B T D]."""

    def start(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return x

    def read(self, state: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return state

    def write(self, state: Float[Tensor, "B T D"], x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return x

    def finish(self, state: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return state


class Entry(nn.ModuleList):
    """The entry list of one block."""

    def __init__(self, kinds: tuple[EntryConfig, ...], place: Place) -> None:
        super().__init__(kind.build(place) for kind in kinds if kind.acts_in(place))

    def forward(self, x: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream) -> Float[Tensor, "B T D"]:
        for technique in self:
            x = technique(x, visit, stream)
        return x
