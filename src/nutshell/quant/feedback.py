"""Quantize a matrix column by column, each column's error taken up by the columns that are still to come.

With the Hessian H of the inputs (mean of x x^T), an error of E in a weight matrix costs the sum over its rows e of
e H e^T. Once column j is fixed, the best later columns shift by its error times row j of U, where H^-1 = U^T U with U
upper triangular; what no shift can take up costs (error / U_jj)^2. Source: Frantar et al., GPTQ, arXiv 2210.17323.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nutshell.errors import NutshellError

# Gives the codes of a column (by its number in the matrix) for the targets that feedback left it.
ColumnQuantizer = Callable[[int, Float[Tensor, " R"]], Int[Tensor, " R"]]


@dataclass(frozen=True, slots=True)
class Feedback:
    """The order of the columns, and how the error of each moves those after it.

    Attributes:
        order: column numbers, the first to be quantized first.
        upper: U, in that order, fp64.
        dead: inputs that never were anything but zero, by column number. Their weights are free, and become zero.
    """

    order: Int[Tensor, " C"]
    upper: Float[Tensor, "C C"]
    dead: Bool[Tensor, " C"]

    @classmethod
    def of(cls, hessian: Float[Tensor, "C C"], *, act_order: bool, damping: float) -> "Feedback":
        """Factor a Hessian.

        Args:
            hessian: mean of x x^T over the inputs x of the matrix.
            act_order: start with the inputs of most energy, while most columns are left to take up errors; else from
                left to right.
            damping: added to the diagonal, as a multiple of its mean over live inputs.

        Raises:
            NutshellError: not finite, or singular even with this damping.
        """
        hessian = hessian.double().clone()
        diagonal = hessian.diagonal()
        if not hessian.isfinite().all():
            raise NutshellError("a Hessian is not finite; the calibration met activations that are not")
        dead = diagonal == 0
        mean = float(diagonal[~dead].mean()) if not dead.all() else 1.0
        diagonal[dead] = mean
        diagonal += damping * mean
        # Stable, so that equal energies leave no choice to the machine.
        order = diagonal.argsort(descending=True, stable=True) if act_order else torch.arange(len(diagonal))
        return cls(order, _upper_of_inverse(hessian[order][:, order]), dead)

    def conditional_variances(self) -> Float[Tensor, " C"]:
        """Give by column number what of an input's energy the later inputs cannot take up: 1 / U_jj^2.

        Dead inputs have that of their mean, so that they are neither fine nor coarse.
        """
        variances = torch.empty(len(self.order), dtype=torch.float64)
        variances[self.order] = self.upper.diagonal().pow(-2)
        return variances

    def quantize(
        self, weight: Float[Tensor, "R C"], steps: Float[Tensor, "R C"], block: int, quantize_column: ColumnQuantizer
    ) -> Int[Tensor, "R C"]:
        """Quantize the columns in order.

        Args:
            weight: the matrix.
            steps: what one unit of each code is worth, as a decoder will multiply it.
            block: columns whose errors reach the columns behind them in one product.
            quantize_column: gives the codes of one column.
        """
        # Columns lie in memory one after the other, in the order of work.
        targets = weight.double().masked_fill(self.dead, 0.0).T[self.order].contiguous()
        errors, codes = torch.empty_like(targets), torch.empty(weight.shape, dtype=torch.int16)
        num_columns = len(targets)
        for start in range(0, num_columns, block):
            stop = min(start + block, num_columns)
            for place in range(start, stop):
                column = int(self.order[place])
                target = targets[place] - self.upper[start:place, place] @ errors[start:place]
                codes[:, column] = quantize_column(column, target)
                values = codes[:, column] * steps[:, column].double()
                errors[place] = (target - values) / self.upper[place, place]
            targets[stop:] -= self.upper[start:stop, stop:].T @ errors[start:stop]
        return codes


def _upper_of_inverse(hessian: Float[Tensor, "C C"]) -> Float[Tensor, "C C"]:
    """Give the upper triangular U with H^-1 = U^T U: the inverse of the V with H = V V^T, V upper triangular."""
    lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if failed:
        raise NutshellError("a Hessian is singular; calibrate on more tokens, or raise the rule's damping")
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=torch.float64), upper=False)
    return inverse.flip(0, 1).contiguous()
