"""The first values of a model's weights, all in one place.

    matrices into a branch (q, k, v, up)      `orthogonal`, or `uniform` in +-1/sqrt(inputs), torch's default
    matrices out of a branch (out, down)      zero: every branch starts silent
    tables looked up by token                 normal, with the standard deviation that each states
    an untied head                            zero: every token starts equally likely
    gains, scales, gates                      the constants they are made with

Each parameter says which of these it is where it is made (`nn.params.Draw`); nothing here goes by name. Published
standard deviations: 0.005 for a tied embedding, 0.01 for a value embedding (openai/parameter-golf 549).
"""

import math
from typing import Literal

import torch
from torch import Tensor

from nutshell.nn.params import Normal, ParamTable

MatrixInit = Literal["orthogonal", "uniform"]


@torch.no_grad()
def draw_weights(table: ParamTable, matrices: MatrixInit, generator: torch.Generator) -> None:
    """Fill every parameter that is drawn, in the table's order."""
    for row in table:
        match row.draw:
            case "matrix":
                (_orthogonal if matrices == "orthogonal" else _uniform)(row.value, generator)
            case "zero":
                row.value.zero_()
            case Normal(std):
                row.value.normal_(0.0, std, generator=generator)


def _orthogonal(weight: Tensor, generator: torch.Generator) -> None:
    """Fill with a random matrix of orthonormal rows or columns, whichever are fewer (Saxe et al. 2013)."""
    torch.nn.init.orthogonal_(weight, generator=generator)


def _uniform(weight: Tensor, generator: torch.Generator) -> None:
    bound = 1.0 / math.sqrt(weight.shape[1])
    weight.uniform_(-bound, bound, generator=generator)
