"""Exclusive self attention: what a head read loses its component along the token's own value.

What:      y <- y - (y . v^) v^ with v^ = v / |v|, v the value of the same position and key/value group; exactly zero
           where y is v.
Source:    Zhai 2026 (arXiv:2603.09078); openai/parameter-golf 265, 1493 (shared/spec/sp8192-loop36.md 1.2).
Shapes:    y [B T H E], v [B T K E].
Init:      no parameters. Not the identity; the first token of a window reads only itself and is left with nothing.
Cost:      4 H E FLOPs a token and visit.
Sees:      the current token's value.
Interacts: acts on values as attention used them. With an output norm after attention the exact zero matters: the norm
           lifts whatever rounding would leave of y to an RMS of up to 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.depth import VirtualLayer
from nutshell.model.seams import BlockKind, Place, Stream

# A token that reads only itself has y = v but for the rounding of a softmax in fp32, whatever the dtype of y.
SAME = 1e-6


class XSAConfig(BlockKind, frozen=True, kw_only=True, tag="xsa"):
    """No settings but the blocks."""

    def build(self, place: Place) -> "XSA":
        return XSA()

    def num_params(self, place: Place) -> int:
        return 0


class XSA(nn.Module):
    """Project the own value out of every head."""

    def forward(
        self,
        y: Float[Tensor, "B T H E"],
        v: Float[Tensor, "B T K E"],
        h: Float[Tensor, "B T D"],
        visit: VirtualLayer,
        stream: Stream,
    ) -> Float[Tensor, "B T H E"]:
        batch, length, num_heads, head_dim = y.shape
        grouped = y.view(batch, length, v.shape[2], num_heads // v.shape[2], head_dim)
        own = F.normalize(v.float(), dim=-1).to(y.dtype).unsqueeze(3)
        freed = grouped - torch.sum(grouped * own, dim=-1, keepdim=True) * own
        reads_itself = torch.isclose(grouped, v.unsqueeze(3), rtol=SAME, atol=0.0).all(dim=-1, keepdim=True)
        return freed.masked_fill(reads_itself, 0.0).view_as(y)
