"""What every role got of an artifact and what it cost, and what the next bytes would buy.

All is measured on the artifact's own sections: weights are decoded as a reader would, and compared with what was
packed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from nutshell.artifact.config import PackConfig
from nutshell.artifact.container import Container
from nutshell.artifact.fit import HIGHEST_RATE_BITS, Fit
from nutshell.artifact.load import read_weight
from nutshell.artifact.pack import Contents
from nutshell.config.struct import kind_of
from nutshell.nn.params import ParamRow, ParamTable
from nutshell.quant.config import QuantRule, rule_for
from nutshell.quant.levels import COLUMN_STEPS_PER_OCTAVE
from nutshell.quant.statistics import Statistics
from nutshell.quant.workers import in_order


@dataclass(frozen=True, slots=True)
class RoleCost:
    """What the weights of one role have under one rule.

    Attributes:
        role: whose.
        method: how they are stored, as `trellis, slope`, or `fp16`.
        num_weights: how many.
        num_bytes: of all their sections.
        bits_per_weight: of those.
        steps: the finest and the coarsest step; None without.
        relative_error: squared error over squared weights.
        nats_per_token: what the error is expected to cost, where a calibration says so; feedback has fitted the errors
            to that calibration's text, so on other text it is more.
        is_open: whether the budget chose their precision.
    """

    role: str
    method: str
    num_weights: int
    num_bytes: int
    bits_per_weight: float
    steps: tuple[float, float] | None
    relative_error: float
    nats_per_token: float | None
    is_open: bool


@dataclass(frozen=True, slots=True)
class NextPercent:
    """What one per cent more bytes would buy, if all went to the open grids.

    From about 2 bits a weight on, another one quarters the squared error, whatever the method; the bytes of a bit are
    measured by the search. Below, less is won.

    Attributes:
        num_bytes: one per cent of the artifact.
        bits_per_weight: that much finer.
        relative_error: by which the open roles' relative error falls, a mean over weights.
        nats_per_token: by which their expected cost falls, where a calibration says so.
    """

    num_bytes: int
    bits_per_weight: float
    relative_error: float
    nats_per_token: float | None


class _Measured(NamedTuple):
    """One weight of an artifact beside what was packed."""

    row: ParamRow
    rule: QuantRule | None
    num_bytes: int
    steps: tuple[float, float] | None
    squared_error: float
    squares: float
    nats_per_token: float | None


def role_costs(
    contents: Contents,
    table: ParamTable,
    config: PackConfig,
    container: Container,
    statistics: Mapping[str, Statistics],
) -> list[RoleCost]:
    """Account for all weights of an artifact, a row for each role and way to store it, largest first."""
    rules = [rule_for(config.rules, row.role, row.shape) for row in table]
    measure = partial(_measure, contents, container, statistics)
    groups: dict[tuple[str, QuantRule | None], list[_Measured]] = {}
    for each in in_order(lambda pair: measure(*pair), list(zip(table, rules, strict=True))):
        groups.setdefault((each.row.role, each.rule), []).append(each)
    return sorted((_total(*key, group) for key, group in groups.items()), key=lambda cost: -cost.num_bytes)


def next_percent(costs: list[RoleCost], fitted: Fit) -> NextPercent | None:
    """Say what one per cent more bytes would buy; None where no precision is open or all are finest."""
    open_costs = [cost for cost in costs if cost.is_open]
    precision = fitted.packed.precision
    if not open_costs or fitted.bytes_per_bit is None or (precision and precision.rate_bits >= HIGHEST_RATE_BITS):
        return None
    num_bytes = round(len(fitted.packed.content) / 100)
    bits = num_bytes / fitted.bytes_per_bit
    saved = 1 - 4.0**-bits
    weights = sum(cost.num_weights for cost in open_costs)
    nats = [cost.nats_per_token for cost in open_costs if cost.nats_per_token is not None]
    return NextPercent(
        num_bytes,
        bits,
        saved * sum(cost.relative_error * cost.num_weights for cost in open_costs) / weights,
        saved * sum(nats) if len(nats) == len(open_costs) else None,
    )


def _measure(
    contents: Contents,
    container: Container,
    statistics: Mapping[str, Statistics],
    row: ParamRow,
    rule: QuantRule | None,
) -> _Measured:
    weight = contents.weights[row.name]
    change = read_weight(container, row).double() - weight.double()
    known = statistics.get(row.name)
    return _Measured(
        row,
        rule,
        sum(len(section.payload) for (name, _), section in container.sections.items() if name == row.name),
        None if rule is None else _steps(container, row.name),
        float(change.square().sum()),
        float(weight.double().square().sum()),
        None if known is None else known.cost(change),
    )


def _steps(container: Container, name: str) -> tuple[float, float]:
    """Give the finest and the coarsest step of a matrix."""
    ends = [container.section(name, "scale").decode().astype(np.float64)]
    if (name, "columns") in container.sections:
        ends.append(2.0 ** (container.section(name, "columns").decode() / COLUMN_STEPS_PER_OCTAVE))
    return math.prod(float(part.min()) for part in ends), math.prod(float(part.max()) for part in ends)


def _total(role: str, rule: QuantRule | None, group: list[_Measured]) -> RoleCost:
    num_weights = sum(math.prod(each.row.shape) for each in group)
    num_bytes = sum(each.num_bytes for each in group)
    steps = [each.steps for each in group if each.steps]
    nats = [each.nats_per_token for each in group if each.nats_per_token is not None]
    squares = sum(each.squares for each in group)
    return RoleCost(
        role=role,
        method="fp16" if rule is None else f"{kind_of(rule)}, {kind_of(rule.grid)}",
        num_weights=num_weights,
        num_bytes=num_bytes,
        bits_per_weight=8 * num_bytes / num_weights,
        steps=(min(low for low, _ in steps), max(high for _, high in steps)) if steps else None,
        relative_error=sum(each.squared_error for each in group) / squares if squares else 0.0,
        nats_per_token=sum(nats) if len(nats) == len(group) else None,
        is_open=rule is not None and rule.grid.is_open,
    )
