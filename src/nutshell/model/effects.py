"""Where what a recipe lists acts, visit by visit, and the refusal of what acts nowhere."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nutshell.config.struct import kind_of
from nutshell.model.config import AtVisit, ModelConfig
from nutshell.model.depth import DepthSchedule, VirtualLayer
from nutshell.model.seams import Place


class Active(NamedTuple):
    """A kind that acts at a visit: its seam, a path below `model`, and the place that its weights are built for."""

    seam: str
    kind: AtVisit
    place: Place


def active_at(config: ModelConfig, place: Place, visit: VirtualLayer) -> Iterator[Active]:
    """List what changes anything at a visit, in the order of the seams."""
    attention = config.copies("attention", place)
    own = attention[min(visit.iteration, len(attention) - 1)]
    is_x0 = visit.index == 0
    for seam, kinds in _lists(config).items():
        built_for = own if seam in ("values", "heads") else place
        for kind in kinds:
            if not kind.acts_at(built_for, visit) or (is_x0 and kind.needs_moved_stream):
                continue
            is_x0 = False
            yield Active(seam, kind, built_for)


def check_effects(config: ModelConfig, schedules: Sequence[DepthSchedule], longest_window: int) -> None:
    """Refuse what has no effect under any of the schedules that a recipe runs, in windows of so many tokens at most.

    Weights by visit are not refused where every block runs once: they are then the block's, and a recipe may flatten
    its schedule without changing anything else.

    Raises:
        ValueError: a kind acts at no visit, a rule makes no skip, visits are untied and no block runs twice, or no
            window is as long as positions are scaled for.
    """
    places = config.places(schedules)
    active = {
        (found.seam, kind_of(found.kind))
        for schedule in schedules
        for visit in schedule.visits
        for found in active_at(config, places[visit.block], visit)
    }
    for seam, kinds in _lists(config).items():
        for kind in kinds:
            if (seam, kind_of(kind)) not in active:
                raise ValueError(f"{seam}: '{kind_of(kind)}' has no effect at any visit of {_texts(schedules)}")
    depth = config.depth
    if depth.skips in ("mirror", "stack") and not any(schedule.skips for schedule in schedules):
        raise ValueError(f"depth.skips '{depth.skips}' has no effect: it makes no skip in {_texts(schedules)}")
    if depth.untied != "none" and all(place.num_visits == 1 for place in places):
        raise ValueError(f"depth.untied '{depth.untied}' has no effect: no block runs twice in {_texts(schedules)}")
    beyond = config.attention.rotary.scaled_beyond
    if beyond is not None and longest_window <= beyond:
        raise ValueError(
            f"rotary.scaled_beyond {beyond} has no effect: no window has more than {longest_window} tokens"
        )


def _lists(config: ModelConfig) -> dict[str, Sequence[AtVisit]]:
    return {
        "residual.entry": config.residual.entry,
        "modulate": config.modulate,
        "values": config.values,
        "heads": config.heads,
    }


def _texts(schedules: Sequence[DepthSchedule]) -> str:
    return " or ".join(f"'{schedule.text}'" for schedule in schedules)
