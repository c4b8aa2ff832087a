"""How the first values of a model's weights are drawn; `docs/initialisation.md` lists those of every weight.

    matrices into a branch (q, k, v, up)      `orthogonal`, or `uniform` in +-1/sqrt(inputs), torch's default
    projections outside blocks                likewise, unless their technique starts them at zero
    the two factors of such a matrix          `orthogonal` each, or `uniform` each in +-3^(1/4)/sqrt(inputs)
    matrices out of a branch (out, down)      zero: every branch starts silent; of two factors one is zero
    tables looked up by token                 normal, with the standard deviation that each states
    an untied head                            zero: every token starts equally likely
    gains, scales, gates                      the constants they are made with

Two factors have the scale of the matrix that they stand for. Orthogonal ones multiply to singular values of 1 and,
where they leave channels out, 0. An element of a dense uniform draw has the variance 1/(3 inputs); factors drawn like
that would multiply to a third of it, as the 1/3 goes in twice, and 3^(1/4) in both bounds makes up for one of them.

Each parameter says which of these it is where it is made (`nn.params.Draw`); nothing here goes by name.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from nutshell.nn.params import Normal, ParamTable

MatrixInit = Literal["orthogonal", "uniform"]
FACTOR_GAIN = 3**0.25


@torch.no_grad()
def draw_weights(table: ParamTable, matrices: MatrixInit, generator: torch.Generator) -> None:
    """Fill every parameter that is drawn, in the table's order."""
    for row in table:
        match row.draw:
            case "matrix" | "factor" if matrices == "orthogonal":
                torch.nn.init.orthogonal_(row.value, generator=generator)  # Saxe et al. 2013
            case "matrix":
                _uniform(row.value, generator, gain=1.0)
            case "factor":
                _uniform(row.value, generator, gain=FACTOR_GAIN)
            case "zero":
                row.value.zero_()
            case Normal(std):
                row.value.normal_(0.0, std, generator=generator)


def _uniform(weight: Tensor, generator: torch.Generator, *, gain: float) -> None:
    bound = gain / math.sqrt(weight.shape[1])
    weight.uniform_(-bound, bound, generator=generator)
