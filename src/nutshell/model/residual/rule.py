"""What residual rules share: the `entry` list, and the state that is just the stream."""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Kind, kind_of
from nutshell.model.depth import VirtualLayer
from nutshell.model.entry import EntryConfig
from nutshell.model.seams import Carry, Dims, Place, Stream


class RuleKind(Kind, frozen=True, kw_only=True):
    """Base of the residual rules: what acts on the stream as a visit begins, in order."""

    entry: tuple[EntryConfig, ...] = ()

    def build_carry(self, dims: Dims) -> Carry:
        return SingleStream()

    def num_params(self, place: Place) -> int:
        """Count the parameters of one block; the entry list counts itself."""
        return 0

    def num_carry_params(self, dims: Dims) -> int:
        """Count the parameters that no block holds."""
        return 0

    def form_in(self, block: int) -> str:
        """Name the form in which a block's branches change the stream: the rule's own, unless it says otherwise."""
        return kind_of(self)

    def check_dims(self, dims: Dims) -> None:
        """Refuse a setting that does not fit the model's sizes, or acts nowhere in it.

        Raises:
            ValueError: there is one.
        """

    def check(self, blocks: tuple[int, ...]) -> None:
        """Refuse a schedule, given as its sequence of blocks, that the rule cannot run.

        Raises:
            ValueError: it cannot.
        """


class StartKind(RuleKind, frozen=True, kw_only=True):
    """Base of the rules that are sequential below `from_block` and have a form of their own from there on."""

    from_block: int

    def form_in(self, block: int) -> str:
        return super().form_in(block) if block >= self.from_block else "sequential"

    def check_dims(self, dims: Dims) -> None:
        if not 0 <= self.from_block < dims.num_blocks:
            raise ValueError(
                f"residual.from_block {self.from_block} is none of the model's blocks, 0 to {dims.num_blocks - 1}"
            )


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


class Step(nn.Module):
    """Base of the residual steps: a block's part of its rule."""

    def __init__(self, config: RuleKind, place: Place) -> None:
        super().__init__()
        self.entry = Entry(config.entry, place)
