"""Snap: the weights themselves are put on the exporter's grid, every so many steps.

What:      w <- Q(w) after the optimizer's step, in place.
Source:    the QAT of openai/parameter-golf 167's MLX script (shared/spec/layer-sharing-167.md 1.5), which moved w a
           growing part of the way.
Shapes:    w [R C].
Cost:      some passes over the weights every `every` steps; no forward is changed.
Interacts: what `every` updates together move by less than half a step is undone, so late in a run, when rates are low,
           weights stand still. With absmax grids Q(Q(w)) = Q(w); by deviation (`clip_sigmas`, or a rate) rounding
           changes the row's deviation a little, and with it the grid that the exporter takes.
"""

from collections.abc import Sequence

import torch

from nutshell.nn.params import ParamTable
from nutshell.quant.config import RtnConfig
from nutshell.quant.rtn import round_trip
from nutshell.train.qat.mode import ModeKind


class SnapConfig(ModeKind, frozen=True, tag="snap"):
    """How often, in steps."""

    every: int = 10

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def is_due(self, step: int) -> bool:
        """Say whether weights are put on the grid after the step of that number, counted from 0."""
        return (step + 1) % self.every == 0


@torch.no_grad()
def snap_(table: ParamTable, qat: SnapConfig, rules: Sequence[RtnConfig]) -> None:
    """Put the weights of the mode's roles on their grids."""
    for role, grid in qat.grids(rules).items():
        for row in table.with_role(role):
            row.value.copy_(round_trip(row.value, grid))
