"""Snap: the weights themselves are put on the exporter's grid, every so many steps.

What:      w <- Q(w) after the optimizer's step, in place.
Source:    the QAT of openai/parameter-golf 167's MLX script (shared/spec/layer-sharing-167.md 1.5), which moved w a
           growing part of the way.
Shapes:    w [R C].
Cost:      some passes over the weights every `every` steps; no forward is changed.
Interacts: what `every` updates together move by less than half a step is undone, so late in a run, when rates are low,
           weights stand still. The end of the grid must be the row's largest magnitude, which rounding leaves where it
           is: Q(Q(w)) = Q(w), and the artifact holds the very weights. A step by deviation would grow with every snap,
           for rounding widens a row, by a factor of 1 + (step / deviation)^2 / 24.
"""

from collections.abc import Sequence

import torch

from nutshell.nn.params import ParamTable
from nutshell.quant.config import QuantRole, RtnConfig
from nutshell.quant.grids import RowGrid
from nutshell.quant.rtn import round_trip
from nutshell.train.qat.mode import ModeKind


class SnapConfig(ModeKind, frozen=True, tag="snap"):
    """How often, in steps."""

    every: int = 10

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def grids(self, rules: Sequence[RtnConfig]) -> dict[QuantRole, RowGrid]:
        by_deviation = [rule for rule in rules if rule.bits is None or rule.clip_sigmas is not None]
        claimed = {role for rule in by_deviation for role in rule.roles} & set(self.roles or ("matrix", "embedding"))
        if claimed:
            raise ValueError(
                f"train.qat 'snap' cannot hold '{min(claimed)}' on its grid: the rule of pack.rules goes by deviation, "
                "which every snap would widen; give it bits without clip_sigmas, or train with 'ste'"
            )
        return super().grids(rules)

    def is_due(self, step: int) -> bool:
        """Say whether weights are put on the grid after the step of that number, counted from 0."""
        return (step + 1) % self.every == 0


@torch.no_grad()
def snap_(table: ParamTable, qat: SnapConfig, rules: Sequence[RtnConfig]) -> None:
    """Put the weights of the mode's roles on their grids, in place."""
    for role, grid in qat.grids(rules).items():
        for row in table.with_role(role):
            row.value.copy_(round_trip(row.value, grid))
