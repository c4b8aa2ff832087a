"""Snap: the weights themselves are put on the exporter's grid, every so many steps.

What:      w <- Q(w) after the optimizer's step, in place, and once more at the end of the run.
Source:    the QAT of openai/parameter-golf 167's MLX script (shared/spec/layer-sharing-167.md 1.5), which moved w a
           growing part of the way.
Shapes:    w [R C].
Cost:      some passes over the weights every `every` steps; no forward is changed.
Interacts: what `every` updates together move by less than half a step is undone, so late in a run, when rates are low,
           weights stand still. The grid must leave rounded weights where they are, as one that ends at the row's
           largest magnitude does: Q(Q(w)) = Q(w), and the artifact holds the very weights. A step by deviation would
           grow with every snap, for rounding widens a row, by a factor of 1 + (step / deviation)^2 / 24.
"""

from collections.abc import Sequence

import torch

from nutshell.config.struct import kind_of
from nutshell.nn.params import ParamTable
from nutshell.quant.by_role import SeenGrid
from nutshell.quant.config import QuantRole, QuantRule, RtnConfig, is_quantized
from nutshell.train.qat.mode import ModeKind


class SnapConfig(ModeKind, frozen=True, tag="snap"):
    """How often, in steps."""

    every: int = 10

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def grids(self, rules: Sequence[QuantRule]) -> dict[QuantRole, SeenGrid]:
        for rule in rules:
            for role in rule.roles:
                if self.roles is None or role in self.roles:
                    _check_holds(role, rule)
        return super().grids(rules)

    def is_due(self, step: int) -> bool:
        """Say whether weights are put on the grid after the step of that number, counted from 0."""
        return (step + 1) % self.every == 0


def _check_holds(role: QuantRole, rule: QuantRule) -> None:
    if not rule.grid.holds_still:
        why = f"the steps of '{kind_of(rule.grid)}' change with every snap"
    elif not isinstance(rule, RtnConfig):
        why = f"method '{kind_of(rule)}' chooses codes by a calibration"
    else:
        return
    raise ValueError(
        f"train.qat 'snap' cannot hold '{role}' on its grid: {why}; "
        "give it a rule 'rtn' on a grid 'absmax', 'ternary' or 'binary', or train with 'ste'"
    )


@torch.no_grad()
def snap_(table: ParamTable, qat: SnapConfig, rules: Sequence[QuantRule]) -> None:
    """Put the weights of the mode's roles on their grids, in place."""
    for role, grid in qat.grids(rules).items():
        for row in table.with_role(role):
            if is_quantized(row.shape):
                row.value.copy_(grid.rounded(row.value))
