"""Embedding norm: the embedded token enters the stream at unit RMS.

What:      x <- RMS(x).
Source:    modded-nanogpt (Jordan et al. 2024); all four systems of shared/spec.
Shapes:    x [B T D].
Init:      no parameters. Not the identity: it sets the scale of the stream.
Cost:      none.
Sees:      the current token.
Interacts: makes the embedding's own scale irrelevant to the stream, not to the tied head.
"""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.seams import Dims, InputKind, Stream
from nutshell.nn.norms import rms_norm


class EmbedNormConfig(InputKind, frozen=True, tag="embed_norm"):
    """No settings."""

    def build(self, dims: Dims) -> "EmbedNorm":
        return EmbedNorm()

    def num_params(self, dims: Dims) -> int:
        return 0


class EmbedNorm(nn.Module):
    """RMS-normalise the embedded tokens."""

    def forward(self, x: Float[Tensor, "B T D"], stream: Stream) -> Float[Tensor, "B T D"]:
        return rms_norm(x)
