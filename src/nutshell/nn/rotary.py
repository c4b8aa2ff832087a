"""Rotary positions (Su et al. 2021, arXiv:2104.09864) on all or the first few channels of a head.

Pairing is half-split, as in the systems we implement: channel i turns with channel i + dims/2, by
`(a, b) -> (a cos + b sin, -a sin + b cos)` with angle `position * base^(-2i/dims)`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Rotary(NamedTuple):
    """Angles of a run of positions, in fp32; built once a forward.

    Shapes:
        cos, sin: [T dims/2].
    """

    cos: Float[Tensor, "T half"]
    sin: Float[Tensor, "T half"]

    @classmethod
    def at(
        cls, start: int, length: int, *, dims: int, base: float, device: torch.device, far: bool = False
    ) -> "Rotary":
        """Tabulate positions start to start + length - 1 for the first `dims` channels of a head.

        `far` positions have their angles reduced in float64: in fp32 those at 100,000 are off by up to 0.004, and
        beyond 2^24 positions themselves are.
        """
        frequencies = base ** (-torch.arange(0, dims, 2, device=device, dtype=torch.float32) / dims)
        dtype = torch.float64 if far else torch.float32
        positions = torch.arange(start, start + length, device=device, dtype=dtype)
        angles = torch.outer(positions, frequencies.to(dtype))
        return cls(angles.cos().float(), angles.sin().float())

    def turn(self, x: Float[Tensor, "B T heads E"]) -> Float[Tensor, "B T heads E"]:
        """Rotate the first `dims` channels of every head by its position; the rest pass."""
        half = self.cos.shape[-1]
        cos, sin = self.cos[:, None, :], self.sin[:, None, :]
        a, b, rest = x[..., :half].float(), x[..., half : 2 * half].float(), x[..., 2 * half :]
        # Few operations: of a model that reads one token at a time, each costs as much as its arithmetic.
        turned = torch.cat([torch.addcmul(a * cos, b, sin), torch.addcmul(b * cos, a, sin, value=-1)], dim=-1)
        turned = turned.to(x.dtype)
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned
