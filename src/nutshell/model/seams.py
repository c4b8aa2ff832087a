"""The places where techniques act, and the facts they may read.

    seam       signature                              acts
    inputs     (x [B T D], stream) -> x               once, on the embedded tokens
    modulate   (h [B T D], visit, stream) -> h        on a branch's normalised input
    heads      (y [B T H E], v, visit, stream) -> y   on what attention read, before its output projection
    residual   (state, visit, attention, mlp) -> state exactly one: how the branches change the stream
    logits     (z [B T V], stream) -> z               once, on the head's output in fp32

All but `residual` are lists, applied in the recipe's order; an empty list is the identity. What acts inside a block is
built once for each block, so that compiled code is shared by blocks and what belongs to one visit is told apart by
`visit.iteration`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nutshell.model.depth import VirtualLayer
from nutshell.nn.cache import KVCache
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.rotary import Rotary


@dataclass(frozen=True, slots=True)
class Dims:
    """The sizes that parts are built from; the letters of dims.py."""

    model_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Read-only facts of one forward; no technique writes to it."""

    tokens: Int[Tensor, "B T"]
    rotary: Rotary
    dtype: torch.dtype
    attend_kind: AttendKind
    cache: KVCache | None


Branch = Callable[[Float[Tensor, "B T D"]], Float[Tensor, "B T D"]]


class ResidualState(Protocol):
    """What a residual rule carries from virtual layer to virtual layer."""

    def read(self) -> Float[Tensor, "B T D"]:
        """Give the stream, as a skip saves it."""
        ...

    def join(self, addition: Float[Tensor, "B T D"]) -> "ResidualState":
        """Add a skip to the stream."""
        ...

    def finish(self) -> Float[Tensor, "B T D"]:
        """Give what the head reads."""
        ...


class ResidualStep(Protocol):
    """How a virtual layer's two branches change the state; one module a block, since its parameters are the block's.

    The rule owns the whole step, not just the addition: parallel lanes read both branches before either writes.
    """

    def __call__(self, state: Any, visit: VirtualLayer, attention: Branch, mlp: Branch) -> Any: ...
