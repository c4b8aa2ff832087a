"""Parameters that know their role and their first values, and the table that the optimizer and the quantizer read.

A role says what a parameter is for, so that nothing has to guess from its name: `matrix` (a projection inside a block),
`projection` (a matrix outside all blocks: behind a side table, or between the embedding's width and the model's),
`embedding` (a table looked up by token), `head` (an untied output table), `gate` (weights that open and close a path),
`gain` (one factor a head or a channel), `scale` (per-channel weights of the residual stream).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Role = Literal["matrix", "projection", "embedding", "head", "gate", "gain", "scale"]
ROLES: tuple[Role, ...] = get_args(Role)


class Normal(NamedTuple):
    """Independent normal first values."""

    std: float


# `matrix` is drawn as the recipe says (nn/init.py); `zero` keeps a branch silent at first.
MatrixDraw = Literal["matrix", "zero"]
# `factor`: one of the two that make a matrix; None: made with its values.
Draw = Normal | MatrixDraw | Literal["factor"] | None


def parameter(value: Tensor, role: Role, draw: Draw = None) -> nn.Parameter:
    """Make a parameter with a role; every parameter of a model is made here.

    Args:
        value: its shape, and its values where nothing is drawn.
        role: what it is for.
        draw: what `init.draw_weights` fills it with.
    """
    made = nn.Parameter(value)
    made.role = role  # type: ignore[attr-defined]  # read back by ParamTable alone
    made.draw = draw  # type: ignore[attr-defined]
    return made


def filled(shape: tuple[int, ...], value: float, role: Role) -> nn.Parameter:
    """Make a parameter of one value throughout."""
    return parameter(torch.full(shape, value), role)


@dataclass(frozen=True, slots=True)
class ParamRow:
    """One parameter: its name in the state dict, its role, the parameter itself, and how it is drawn."""

    name: str
    role: Role
    value: nn.Parameter
    draw: Draw = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)


@dataclass(frozen=True, slots=True)
class ParamTable:
    """All parameters of a model, each once, in the model's own order."""

    rows: tuple[ParamRow, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "ParamTable":
        """List a model's parameters; a tied parameter is listed once."""
        rows = []
        for name, value in model.named_parameters():
            role = getattr(value, "role", None)
            assert role is not None, f"parameter {name} has no role; make it with nutshell.nn.params.parameter"
            rows.append(ParamRow(name, role, value, getattr(value, "draw", None)))
        return cls(tuple(rows))

    def __iter__(self) -> Iterator[ParamRow]:
        return iter(self.rows)

    def with_role(self, *roles: Role) -> list[ParamRow]:
        """Select the rows of some roles."""
        return [row for row in self.rows if row.role in roles]

    def count(self) -> int:
        """Count all weights."""
        return sum(row.value.numel() for row in self.rows)

    def count_by_role(self) -> dict[str, int]:
        """Count weights by role; roles without weights are absent."""
        counts = {role: sum(row.value.numel() for row in self.with_role(role)) for role in ROLES}
        return {role: count for role, count in counts.items() if count}
