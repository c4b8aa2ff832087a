"""Rate: weights lean towards codes that the artifact's entropy coder makes short.

What:      expected bits a weight of the codes that w + u s rounds to, u uniform in +-1/2 and s the row's step, under
           the best static model of the matrix's codes. With x = w / s between the codes k and k + 1, its code is
           k + 1 with probability x - k, so the expectation is exact: (k + 1 - x) L_k + (x - k) L_{k+1}, with L the
           lengths of an ideal code for how often codes are met in the matrix.
Source:    entropy models of neural compression with uniform noise for rounding: Balle et al. 2017 (arXiv:1611.01704).
           The invariance Q(g w) = Q(w) that makes plain decay useless here: shared/spec/sp8192-loop36.md 1.5.
Shapes:    w [R C]; s [R], differentiated too: x does not change with the row's scale, so neither does the term, and
           its gradient is at a right angle to each row.
Cost:      two lookups a weight and a histogram a matrix, every `every` steps.
Interacts: lengths are of one histogram a matrix, while the exporter's models also fit each row's spread: they agree
           where steps go with the row's deviation, and absmax rows are cheaper than they seem here. Under a budget
           that is fitted, what is saved buys a finer step.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nutshell.nn.params import ParamTable
from nutshell.quant.by_role import RateBits, SeenGrid, grids_by_role
from nutshell.quant.config import QuantRole, QuantRule, is_quantized
from nutshell.train.penalties.penalty import Penalty, PenaltyKind

# Met by each code besides its own weights, so that a code not in use has a length.
PRIOR_COUNT = 0.5


class RateConfig(PenaltyKind, frozen=True, kw_only=True, tag="rate"):
    """`weight` is what a coded bit a weight is worth, in nats a token; `roles` and `rate_bits` as in `train.qat`."""

    roles: tuple[QuantRole, ...] | None = None
    rate_bits: RateBits | None = None

    def check(self, rules: Sequence[QuantRule]) -> None:
        signs = [role for role, seen in self._grids(rules).items() if seen.grid.signs]
        if signs:
            raise ValueError(
                f"train.penalties 'rate' has no effect on '{signs[0]}': whichever it is, a code of two costs a bit"
            )

    def build(self, table: ParamTable, rules: Sequence[QuantRule]) -> Penalty:
        coded = [
            (row.value, grid)
            for role, grid in self._grids(rules).items()
            for row in table.with_role(role)
            if is_quantized(row.shape)
        ]
        num_weights = sum(weight.numel() for weight, _ in coded)

        def bits_per_weight() -> Float[Tensor, ""]:
            return torch.stack([expected_bits(weight, grid) for weight, grid in coded]).sum() / num_weights

        return Penalty(self, bits_per_weight)

    def _grids(self, rules: Sequence[QuantRule]) -> dict[QuantRole, SeenGrid]:
        return grids_by_role(rules, roles=self.roles, rate_bits=self.rate_bits, who="train.penalties 'rate'")


def expected_bits(weight: Float[Tensor, "R C"], grid: SeenGrid) -> Float[Tensor, ""]:
    """Expect the bits of a matrix's codes, in all; differentiable."""
    top = grid.grid.largest
    x = _in_steps(weight, grid).clamp(-top, top)
    below = x.detach().floor().clamp(max=top - 1)
    share_above = x - below
    index = (below + top).long()
    lengths = _code_lengths(index, share_above.detach(), num_codes=2 * top + 1)
    return (lengths[index] + share_above * (lengths[index + 1] - lengths[index])).sum()


def _in_steps(weight: Float[Tensor, "R C"], grid: SeenGrid) -> Float[Tensor, "R C"]:
    """Divide weights by their steps; what shares a step and is all zeros, and so has none, learns nothing."""
    empty = grid.steps(weight.detach()) == 0
    steps = grid.steps(torch.where(empty, 1.0, weight))
    return torch.where(empty, 0.0, weight / steps)


@torch.no_grad()
def _code_lengths(
    index: Int[Tensor, "R C"], share_above: Float[Tensor, "R C"], *, num_codes: int
) -> Float[Tensor, " N"]:
    """Give the lengths in bits of an ideal code for all weights, each split over its two codes.

    They are held fixed: of the best code, the expected length does not change with the code to first order.
    """
    index, share = index.flatten(), share_above.flatten().double()
    counts = torch.bincount(index, 1 - share, num_codes) + torch.bincount(index + 1, share, num_codes) + PRIOR_COUNT
    return (counts.sum() / counts).log2().float()
