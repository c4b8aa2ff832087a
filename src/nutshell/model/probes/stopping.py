"""Where a loop could stop: how much each pass still changes the stream, and what the loss is with that many passes.

Every number of passes is a schedule of its own, run whole: the coda reads the loop's last stream as it does in any
forward, and no forward has a branch. What a stop would save is read off afterwards. Source: the DEQ evaluation of
openai/parameter-golf 167 (shared/spec/layer-sharing-167.md 1.2), which stops each sequence by itself. There the extra
passes were of another model, without the weights that visits have of their own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.depth import DepthSchedule, read_blocks
from nutshell.model.lm import LM
from nutshell.model.probes.readings import LoopReading, PassReading, StopReading
from nutshell.model.probes.trace import lanes, watched

FLOOR = 1e-8  # added to the RMS that a change is measured by, as published


@dataclass(frozen=True, slots=True)
class Loop:
    """A group `(blocks)xN` of a schedule, with the text on both sides of it."""

    before: str
    blocks: str
    passes: int
    after: str

    @property
    def text(self) -> str:
        return f"({self.blocks})x{self.passes}"

    def times(self, passes: int) -> str:
        """Write the schedule with another number of passes."""
        return f"{self.before}({self.blocks})x{passes}{self.after}"

    def end(self, passes: int) -> int:
        """Give the index of the virtual layer that ends so many passes."""
        start = len(read_blocks(self.before)) if self.before.strip() else 0
        return start + passes * len(read_blocks(self.blocks)) - 1


def loops(text: str) -> list[Loop]:
    """List the groups of a schedule that run more than once; those inside another group are no loops of their own."""
    found = [
        Loop(text[: match.start()], match[1].strip(), int(match[2]), text[match.end() :])
        for match in re.finditer(r"\(([^()]*)\)x(\d+)", text)
    ]
    return [loop for loop in found if loop.passes > 1 and loop.before.count("(") == loop.before.count(")")]


def pass_changes(
    model: LM, loop: Loop, schedule: DepthSchedule, inputs: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "P-1 B"], Float[Tensor, "P-1 B"]]:
    """Give what each pass of a loop but the first changes in the stream of each sequence.

    That is the RMS of the change, and the same relative to the RMS of the stream before it. What comes after the loop
    has no say in it, and a pass none in those before it.

    Args:
        model: an eager twin (`trace.eager_twin`).
        loop: what is repeated.
        schedule: one with all passes of the loop.
        inputs: tokens.
    """
    with torch.no_grad(), watched(model) as runs:
        model(inputs, schedule)
    ends = [torch.stack(lanes(runs[loop.end(number)].left)) for number in range(1, loop.passes + 1)]
    moved = [(_rms(later.double() - earlier), _rms(earlier.double())) for earlier, later in pairwise(ends)]
    changes = torch.stack([change for change, _ in moved])
    return changes, changes / (torch.stack([size for _, size in moved]) + FLOOR)


def early_stop(
    model: LM,
    loop: Loop,
    schedules: Sequence[DepthSchedule],
    inputs: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    *,
    eps: Sequence[float],
) -> LoopReading:
    """Read every pass of a loop, and where each sequence would stop.

    Args:
        model: an eager twin (`trace.eager_twin`).
        loop: what is repeated.
        schedules: by number of passes, from 1 to those of the loop.
        inputs: tokens.
        targets: the token after each.
        eps: a sequence stops after the first pass that changed its stream by less, relatively.
    """
    changes, deltas = pass_changes(model, loop, schedules[-1], inputs)
    with torch.no_grad():
        losses = torch.stack([_losses(model(inputs, schedule), targets) for schedule in schedules])
    return LoopReading(
        loop=loop.text,
        sequences=len(inputs),
        passes=[
            PassReading(
                passes=index + 1,
                schedule=schedule.text,
                loss=losses[index].mean().item(),
                increment=changes[index - 1].square().mean().sqrt().item() if index else None,
                delta=deltas[index - 1].mean().item() if index else None,
                ratio=(deltas[index - 1].mean() / deltas[index - 2].mean()).item() if index > 1 else None,
            )
            for index, schedule in enumerate(schedules)
        ],
        stops=[_stop(value, deltas, losses) for value in eps],
    )


def _stop(eps: float, deltas: Float[Tensor, "P-1 B"], losses: Float[Tensor, "P B"]) -> StopReading:
    below = torch.cat([deltas < eps, torch.ones(1, deltas.shape[1], dtype=torch.bool, device=deltas.device)])
    first = below.int().argmax(dim=0)  # the row past the end is the sequences that never fell below
    met = first < len(deltas)
    index = torch.where(met, first + 1, len(deltas))
    passes = index + 1
    return StopReading(
        eps=eps,
        loss=losses.gather(0, index[None]).mean().item(),
        mean_passes=passes.double().mean().item(),
        fewest=int(passes.min()),
        most=int(passes.max()),
        unmet=int((~met).sum()),
    )


def _losses(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, " B"]:
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nats.view(targets.shape).double().mean(dim=1)


def _rms(x: Float[Tensor, "N B T D"]) -> Float[Tensor, " B"]:
    """Give the RMS of each sequence, its lanes taken together."""
    return x.square().mean(dim=(0, 2, 3)).sqrt()
