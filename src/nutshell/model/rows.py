"""Weights that belong to a block or to its visits: one row for all of them, a row for each, or both."""

from typing import overload

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import BranchName, Place, SharedPer, Stream
from nutshell.nn.params import Role, filled


class Deviations(nn.ParameterList):
    """The row of a block, then of each of its visits the deviation from it."""


def filled_rows(num_rows: int, shape: tuple[int, ...], value: float, role: Role) -> nn.ParameterList:
    """Make one parameter for all visits, or one for each."""
    return nn.ParameterList(filled(shape, value, role) for _ in range(num_rows))


def rows_per(place: Place, per: SharedPer, shape: tuple[int, ...], value: float, role: Role) -> nn.ParameterList:
    """Make the rows that `per` says; deviations start at zero."""
    if per != "deviation":
        return filled_rows(place.rows(per), shape, value, role)
    deviations = (filled(shape, 0.0, role) for _ in range(place.num_visits))
    return Deviations([filled(shape, value, role), *deviations])


@overload
def of_visit(rows: nn.ParameterList, visit: VirtualLayer, *, skipped: int = 0) -> Tensor: ...


@overload
def of_visit(rows: nn.ModuleList, visit: VirtualLayer, *, skipped: int = 0) -> nn.Module: ...


def of_visit(rows: nn.ParameterList | nn.ModuleList, visit: VirtualLayer, *, skipped: int = 0) -> Tensor | nn.Module:
    """Pick what belongs to a visit; one beyond the trained ones goes by the last one's.

    A single row is picked without looking at the visit, so that compiled code is shared by all visits.

    Args:
        rows: one for all visits, or one for each.
        visit: the virtual layer that runs.
        skipped: how many of the block's first visits have no row.
    """
    if isinstance(rows, Deviations):
        return rows[0] + rows[1 + min(visit.iteration, len(rows) - 2)]
    if len(rows) == 1:
        return rows[0]
    assert visit.iteration >= skipped, "no row is of this visit"
    return rows[min(visit.iteration - skipped, len(rows) - 1)]


class BranchRows(nn.Module):
    """Base of what has a vector for each branch, of the block or of its visits."""

    def __init__(self, attention: nn.ParameterList, mlp: nn.ParameterList) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = mlp

    def at(self, branch: BranchName, visit: VirtualLayer) -> Float[Tensor, " D"]:
        """Pick a branch's vector at a visit."""
        return of_visit(self.attention if branch == "attention" else self.mlp, visit)


class BranchGain(BranchRows):
    """Base of what weighs the channels of a branch's input or output."""

    def forward(
        self, h: Float[Tensor, "B T D"], branch: BranchName, visit: VirtualLayer, stream: Stream
    ) -> Float[Tensor, "B T D"]:
        return self.at(branch, visit).to(h.dtype) * h

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"attention": self.at("attention", visit), "mlp": self.at("mlp", visit)}
