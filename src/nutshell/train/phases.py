"""Which depth schedule runs at a point of the run: a table looked up by progress."""

from collections.abc import Sequence

from nutshell.model.depth import DepthSchedule


def schedule_at(progress: float, phases: Sequence[tuple[float, DepthSchedule]], final: DepthSchedule) -> DepthSchedule:
    """Pick the first phase that has not ended, or the model's own schedule."""
    return next((schedule for until, schedule in phases if progress < until), final)
