"""Every matrix product of a block: fp32 master weights, cast to the activations' dtype when used."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.nn.params import Role, parameter


class Projection(nn.Module):
    """A linear map without bias, `y = x W^T`.

    Shapes:
        weight: [R C], rows are outputs; kept in fp32.
    """

    def __init__(self, in_dim: int, out_dim: int, *, role: Role = "matrix") -> None:
        super().__init__()
        self.weight = parameter(torch.empty(out_dim, in_dim), role)

    def forward(self, x: Float[Tensor, "*any C"]) -> Float[Tensor, "*any R"]:
        return F.linear(x, self.weight.to(x.dtype))
