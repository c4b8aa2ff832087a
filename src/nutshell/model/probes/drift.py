"""How far packing moves the stream: the same batch through the weights as trained and as packed, layer by layer.

An error in a matrix that visits share is met again at every visit, so it may grow from pass to pass; #855 assumed how
much (shared/spec/recurrence-study-855.md 3.3, 6), here it is measured.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.depth import DepthSchedule, VirtualLayer
from nutshell.model.lm import LM
from nutshell.model.probes.readings import DriftReading, PassDrift, VisitDrift
from nutshell.model.probes.trace import Lane, VisitRun, lanes, mean_cosine, watched


def drift(
    exact: LM, packed: LM, schedule: DepthSchedule, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
) -> DriftReading:
    """Compare the streams of two models of one configuration after every virtual layer.

    Args:
        exact: an eager twin with the weights as trained.
        packed: one with those that came back from an artifact.
        schedule: what both run.
        inputs: tokens.
        targets: the token after each.
    """
    (wanted, exact_loss), (found, packed_loss) = (_run(model, schedule, inputs, targets) for model in (exact, packed))
    errors = [_relative_error(lanes(one.left), lanes(other.left)) for one, other in zip(wanted, found, strict=True)]
    visits = [run.visit for run in wanted]
    return DriftReading(
        exact_loss=exact_loss,
        packed_loss=packed_loss,
        input_error=_relative_error([wanted[0].stream.x0], [found[0].stream.x0]),
        visits=[
            VisitDrift(
                index=one.visit.index,
                block=one.visit.block,
                iteration=one.visit.iteration,
                error=error,
                cosine=mean_cosine(torch.stack(lanes(one.left)), torch.stack(lanes(other.left))),
                growth=_growth(errors, _last_of_block(visits, one.visit), one.visit.index),
            )
            for one, other, error in zip(wanted, found, errors, strict=True)
        ],
        passes=_passes(schedule, errors),
    )


def _run(
    model: LM, schedule: DepthSchedule, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
) -> tuple[list[VisitRun], float]:
    with torch.no_grad(), watched(model) as runs:
        logits = model(inputs, schedule)
    return runs, F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()


def _relative_error(exact: Sequence[Lane], packed: Sequence[Lane]) -> float:
    """Give |packed - exact| / |exact|, Euclidean norms over tokens, channels and lanes."""
    wanted, found = (torch.stack(list(streams)).double() for streams in (exact, packed))
    return (torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted)).item()


def _last_of_block(visits: Sequence[VirtualLayer], visit: VirtualLayer) -> int | None:
    """Give the index of the block's visit before this one."""
    return max((other.index for other in visits[: visit.index] if other.block == visit.block), default=None)


def _passes(schedule: DepthSchedule, errors: Sequence[float]) -> list[PassDrift]:
    """Read the error where each pass ends: after the last visit of an iteration of the blocks that repeat."""
    ends: dict[int, int] = {}
    for visit in schedule.visits:
        if schedule.num_visits(visit.block) > 1:
            ends[visit.iteration] = max(visit.index, ends.get(visit.iteration, 0))
    order = [ends[iteration] for iteration in sorted(ends)]
    return [
        PassDrift(number=number, error=errors[end], growth=_growth(errors, last, end))
        for number, (last, end) in enumerate(zip([None, *order], order, strict=False), start=1)
    ]


def _growth(errors: Sequence[float], earlier: int | None, later: int) -> float | None:
    if earlier is None:
        return None
    return errors[later] / errors[earlier] if errors[earlier] else float("nan")
