"""SwiGLU: a three-matrix MLP whose hidden channels are gated by others.

What:      y = W3 (silu(W1 h) * (W2 h)) with silu(u) = u sigmoid(u).
Source:    Shazeer 2020 (arXiv:2002.05202); `USE_SWIGLU` of openai/parameter-golf 167 (shared/spec/layer-sharing-167.md
           1.3).
Shapes:    h, y [B T D]; W1, W2 [F D], W3 [D F].
Init:      W1 and W2 drawn, W3 zero: the branch starts silent.
Cost:      3 D F parameters a block, 6 D F FLOPs a token and visit; with 2/3 of F as much as a two-matrix MLP.
Sees:      the current token.
Interacts: quadratic in h as relu^2 is, for small inputs with half the factor.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.nn.adapters import Project, project
from nutshell.nn.matrices import MatrixConfig
from nutshell.nn.mlp import MLPKind
from nutshell.nn.projection import DenseConfig


class SwiGLUConfig(MLPKind, frozen=True, kw_only=True, tag="swiglu"):
    """`silu(gate) * up`, then `down`; `mlp_dim` is the width of each."""

    gate: MatrixConfig = DenseConfig()

    def shapes(self, model_dim: int) -> dict[str, tuple[int, int]]:
        return {"gate": (model_dim, self.mlp_dim), **super().shapes(model_dim)}

    def build(self, model_dim: int) -> "SwiGLU":
        return SwiGLU(self, model_dim)


class SwiGLU(nn.Module):
    """Expand twice, gate one by the other, contract."""

    def __init__(self, config: SwiGLUConfig, model_dim: int) -> None:
        super().__init__()
        shapes = config.shapes(model_dim)
        self.gate = config.gate.build(*shapes["gate"])
        self.up = config.up.build(*shapes["up"])
        self.down = config.down.build(*shapes["down"], draw="zero")

    def forward(self, h: Float[Tensor, "B T D"], project: Project = project) -> Float[Tensor, "B T D"]:
        gated = F.silu(project(self.gate, h, "gate")) * project(self.up, h, "up")
        return project(self.down, gated, "down")
