"""The places where techniques act, and the facts they may read.

    seam       signature                                     acts
    inputs     (x [B T D], stream) -> x                      once, on the embedded tokens
    modulate   (h [B T D], branch, visit, stream) -> h       on a branch's normalised input, or on its output
    values     (v [B T K E], visit, stream) -> v             on attention's values
    heads      (y [B T H E], v, h, visit, stream) -> y       on what attention read, before its output projection
    residual   (state, visit, attention, mlp, stream) -> state   exactly one: how the branches change the stream;
               its `entry` list (x [B T D], visit, stream) -> x  acts on the stream as a visit begins
    logits     (z [B T V], stream) -> z                      once, on the head's output, cast to fp32

All but `residual` are lists, applied in the recipe's order; an empty list is the identity. What acts inside a block is
built once for each block, so that compiled code is shared by blocks; what belongs to one visit is kept by the block in
a list and picked by `visit.iteration`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nutshell.config.struct import Kind
from nutshell.model.depth import VirtualLayer, read_blocks
from nutshell.nn.adapters import Adapters, Project, project
from nutshell.nn.cache import DocumentIds, KVCache
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.rotary import Rotary

Per = Literal["block", "visit"]
# One row of the block, and of each visit its deviation from that: what all visits learn is learned once.
SharedPer = Per | Literal["deviation"]
BranchName = Literal["attention", "mlp"]
Side = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class Dims:
    """The sizes that parts are built from; the letters of dims.py."""

    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_blocks: int
    bos_id: int


@dataclass(frozen=True, slots=True)
class Place:
    """Which block a part is built for, how often declared schedules run it at most, and whether all begin with it."""

    dims: Dims
    block: int
    num_visits: int
    is_first: bool = False

    def rows(self, per: SharedPer) -> int:
        """Say how many sets of weights a part has here: one, one for each visit, or both."""
        return {"block": 1, "visit": self.num_visits, "deviation": 1 + self.num_visits}[per]


class InputKind(Kind, frozen=True, kw_only=True):
    """Base of the techniques on the embedded tokens."""

    def check(self, dims: Dims) -> None:
        """Refuse a setting that does not fit the model's sizes.

        Raises:
            ValueError: it does not.
        """

    def flops(self, dims: Dims) -> int:
        """Count the FLOPs of the matrix products of one token."""
        return 0


class BlockKind(Kind, frozen=True, kw_only=True):
    """Base of the techniques that act inside blocks: in all of them, or only in those that `blocks` lists."""

    # Whether it does nothing as long as the stream still is x0.
    needs_moved_stream: ClassVar[bool] = False
    blocks: str = ""

    def acts_in(self, place: Place) -> bool:
        return not self.blocks or place.block in read_blocks(self.blocks)

    def check(self, dims: Dims) -> None:
        """Refuse a setting that does not fit the model's sizes.

        Raises:
            ValueError: it does not.
        """

    def acts_at(self, place: Place, visit: VirtualLayer) -> bool:
        """Say whether it changes anything at a visit of a block in which it acts."""
        return self.acts_in(place)

    def value_at(self, visit: VirtualLayer) -> float | None:
        """Give the number by which it acts at a visit, where depth alone decides it."""
        return None

    def flops(self, place: Place) -> int:
        """Count the FLOPs of the matrix products of one token and visit."""
        return 0


class ValueKind(BlockKind, frozen=True, kw_only=True):
    """Base of the techniques on values: they may look something up once for all blocks, or keep the first values."""

    keeps_first: ClassVar[bool] = False

    def build_table(self, dims: Dims) -> nn.Module | None:
        """Make what turns tokens [B T] into the entry of `Stream.tables`, [B T K E]."""
        return None

    def num_table_params(self, dims: Dims) -> int:
        return 0

    def table_flops(self, dims: Dims) -> int:
        return 0


class Stream(NamedTuple):
    """Read-only facts of one forward; no technique writes to it.

    Attributes:
        tokens: The tokens read, [B T].
        previous: The token before each, -1 at the start of a window, [B T].
        x0: The embedded tokens, after the `inputs` once these have acted, [B T D].
        rotary: Angles of the positions.
        dtype: Precision of the activations.
        attend_kind: Attention kernel.
        cache: What was seen before, when stepping.
        documents: Document numbers, where attention stays within documents.
        tables: By kind, what `values` techniques look up once for all blocks, [B T K E].
        first_values: The values of the first virtual layer, once it has run and where a technique reads them.
        adapters: Corrections of the matrix products, where rows have learned some.
    """

    tokens: Int[Tensor, "B T"]
    previous: Int[Tensor, "B T"]
    x0: Float[Tensor, "B T D"]
    rotary: Rotary
    dtype: torch.dtype
    attend_kind: AttendKind
    cache: KVCache | None = None
    documents: DocumentIds | None = None
    tables: Mapping[str, Float[Tensor, "B T K E"]] = MappingProxyType({})
    first_values: Float[Tensor, "B T K E"] | None = None
    adapters: Adapters | None = None

    def projector(self, visit: VirtualLayer) -> Project:
        """Give what applies the matrices of a visit: every product of a virtual layer goes through it."""
        if self.adapters is None:
            return project
        return partial(_adapted, self.adapters, visit.index)


def _adapted(adapters: Adapters, index: int, matrix: nn.Module, x: Tensor, name: str) -> Tensor:
    return adapters.correct(matrix(x), x, (index, name))


Branch = Callable[[Float[Tensor, "B T D"]], Float[Tensor, "B T D"]]


class Carry(Protocol):
    """How a residual rule's state begins, what a skip saves of it and changes in it, and what the head reads of it."""

    def start(self, x: Float[Tensor, "B T D"]) -> Any: ...

    def read(self, state: Any) -> Float[Tensor, "B T D"]: ...

    def write(self, state: Any, x: Float[Tensor, "B T D"]) -> Any: ...

    def finish(self, state: Any) -> Float[Tensor, "B T D"]: ...


class ResidualStep(Protocol):
    """How a virtual layer's two branches change the state; one module a block, since its parameters are the block's.

    The rule owns the whole step, not just the addition: parallel lanes read both branches before either writes.
    """

    def __call__(self, state: Any, visit: VirtualLayer, attention: Branch, mlp: Branch, stream: Stream) -> Any: ...
