"""What every virtual layer of one forward read, gave and made of the stream, seen through hooks on an eager twin.

Compiled code would be compiled anew for a hook, so a model in training is never hooked. Its twin has the same tensors
and none of its code. A technique that has something to say of a visit has a method `probe`; the hooks ask the ones that
ran.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.block import Block
from nutshell.model.depth import DepthSchedule, VirtualLayer
from nutshell.model.lm import LM
from nutshell.model.seams import Branch, BranchName, Stream

Lane = Float[Tensor, "B T D"]


@runtime_checkable
class Probed(Protocol):
    """A part of a model that has something to say of a visit."""

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        """Name the values that act at a visit, as they are used: after caps, sigmoids and the like."""
        ...


@dataclass(slots=True)
class VisitRun:
    """One virtual layer as it ran.

    Attributes:
        visit: Which one.
        stream: The facts that it could read.
        entered: The residual rule's state as the visit began, its skips joined.
        left: The same as it ended.
        read: What each branch read of the stream, [B T D].
        gave: What each branch gave to the residual rule, [B T D].
        said: What techniques say of the visit, by `kind.name`.
    """

    visit: VirtualLayer
    stream: Stream
    entered: Any
    left: Any = None
    read: dict[BranchName, Tensor] = field(default_factory=dict)
    gave: dict[BranchName, Tensor] = field(default_factory=dict)
    said: dict[str, Tensor] = field(default_factory=dict)

    def overhear(self, name: BranchName, branch: Branch) -> Branch:
        """Note what a branch reads and gives."""

        def overheard(x: Lane) -> Lane:
            self.read[name] = x
            self.gave[name] = branch(x)
            return self.gave[name]

        return overheard


def eager_twin(model: LM, schedules: Sequence[DepthSchedule]) -> LM:
    """Give a model that shares the tensors of another, not its compiled code, gradients or hooks.

    Args:
        model: the other.
        schedules: those that it was built for.
    """
    with torch.device("meta"):
        twin = LM(model.config, schedules)
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin


@contextlib.contextmanager
def watched(model: LM) -> Iterator[list[VisitRun]]:
    """List the virtual layers that run inside the block; its end takes the hooks off."""
    runs: list[VisitRun] = []
    with contextlib.ExitStack() as hooks:
        for block in model.blocks:
            for handle in _hook(block, runs):
                hooks.callback(handle.remove)
        yield runs


def lanes(state: Any) -> tuple[Lane, ...]:
    """Give the streams that a residual rule carries: one, or one for each lane."""
    return state if isinstance(state, tuple) else (state,)


def mean_cosine(left: Float[Tensor, "N B T D"], right: Float[Tensor, "N B T D"]) -> float:
    """Average over tokens the cosine between vectors of all channels and lanes."""
    left, right = (x.double().permute(1, 2, 0, 3).flatten(2) for x in (left, right))
    return F.cosine_similarity(left, right, dim=-1).mean().item()


def _hook(block: nn.Module, runs: list[VisitRun]) -> Iterator[torch.utils.hooks.RemovableHandle]:
    assert isinstance(block, Block)

    def begin(_: nn.Module, args: tuple) -> None:
        state, visit, stream = args
        runs.append(VisitRun(visit, stream, state))

    def overhear(_: nn.Module, args: tuple) -> tuple:
        state, visit, attention, mlp, stream = args
        run = runs[-1]
        return state, visit, run.overhear("attention", attention), run.overhear("mlp", mlp), stream

    def ask(module: nn.Module, *_: Any) -> None:
        assert isinstance(module, Probed)
        kind = type(module).__module__.rpartition(".")[2]  # a technique is one file, named as its kind
        runs[-1].said |= {f"{kind}.{name}": value for name, value in module.probe(runs[-1].visit).items()}

    def end(_: nn.Module, __: tuple, output: tuple) -> None:
        runs[-1].left, _values = output

    yield block.register_forward_pre_hook(begin)
    yield block.residual.register_forward_pre_hook(overhear)
    for module in block.modules():
        if isinstance(module, Probed):
            yield module.register_forward_hook(ask)
    yield block.register_forward_hook(end)
