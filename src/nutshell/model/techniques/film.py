"""FiLM: every visit scales and shifts a branch's output channel by channel.

What:      z <- gamma * z + beta, with rows of their own for each visit, attention and MLP; gamma may be capped.
Source:    Perez et al. 2018 (arXiv:1709.07871); by visit, `timestep scale` and `bias` of openai/parameter-golf 855
           (shared/spec/recurrence-study-855.md 1.4, T3 and T4).
Shapes:    z [B T D]; gamma, beta [D], for each visit.
Init:      gamma = 1, beta = 0: the identity, under either cap.
Cost:      2 D parameters a visit for each of gamma and beta; no matrix products.
Sees:      the current token.
Interacts: listed after branch_scale, whose weights gamma multiplies; the shift is then scaled by nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.rows import BranchRows, filled_rows
from nutshell.model.seams import BlockKind, BranchName, Place, Side, Stream


class FilmConfig(BlockKind, frozen=True, kw_only=True, tag="film"):
    """Which of gamma (`scale`) and beta (`shift`) there are, and the bound on gamma's magnitude.

    A `hard` cap clamps: a channel beyond it has no gradient, and only weight decay can bring it back. A `soft` one
    bends: its slope falls without end, but no channel is cut off. Both leave the first value, 1, exactly as it is.
    """

    side: ClassVar[Side] = "output"
    scale: bool = True
    shift: bool = False
    cap: float | None = None
    cap_form: Literal["hard", "soft"] = "hard"

    def __post_init__(self) -> None:
        if not self.scale and not self.shift:
            raise ValueError("neither scale nor shift: film would do nothing")
        if self.cap is None and self.cap_form != "hard":
            raise ValueError(f"cap_form '{self.cap_form}' has no effect without cap")
        if self.cap is not None and not self.scale:
            raise ValueError(f"cap {self.cap} has no effect without scale")
        if self.cap is not None and self.cap <= 1:
            raise ValueError(f"cap must be above 1, where gamma starts, got {self.cap}")

    def build(self, place: Place) -> "Film":
        return Film(self, place)

    def num_params(self, place: Place) -> int:
        return (self.scale + self.shift) * 2 * place.dims.model_dim * place.num_visits


def hard_cap(gamma: Tensor, cap: float) -> Tensor:
    """Clamp to the cap; beyond it the gradient is zero."""
    return gamma.clamp(-cap, cap)


def soft_cap(gamma: Tensor, cap: float) -> Tensor:
    """Bend towards the cap, with value 1 and slope 1 at 1.

    This is `cap * tanh`, its argument shifted and stretched so that it passes through (1, 1) with slope 1. Written by
    the addition theorem of tanh, the value at 1 is exactly 1; `cap * tanh(atanh(1 / cap))` is not, once rounded.
    """
    bend = torch.tanh((gamma - 1) / (cap - 1 / cap))
    return (1 + cap * bend) / (1 + bend / cap)


def _bound(config: FilmConfig) -> Callable[[Tensor], Tensor]:
    if config.cap is None:
        return nn.Identity()
    return partial(hard_cap if config.cap_form == "hard" else soft_cap, cap=config.cap)


def _rows(place: Place, value: float) -> nn.ParameterList:
    return filled_rows(place.num_visits, (place.dims.model_dim,), value, "scale")


class FilmScale(BranchRows):
    """Gamma: a factor for each channel, by branch and visit.

    Attributes:
        cap: the bound on a factor's magnitude, None where there is none.
    """

    def __init__(self, config: FilmConfig, place: Place) -> None:
        super().__init__(_rows(place, 1.0), _rows(place, 1.0))
        self.cap = config.cap
        self.bound = _bound(config)

    def used(self, branch: BranchName, visit: VirtualLayer) -> Float[Tensor, " D"]:
        """Give the factors that act at a visit: gamma after its cap, in fp32."""
        return self.bound(self.at(branch, visit))

    def forward(self, z: Float[Tensor, "B T D"], branch: BranchName, visit: VirtualLayer) -> Float[Tensor, "B T D"]:
        return self.used(branch, visit).to(z.dtype) * z

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        said = {"attention.gamma": self.used("attention", visit), "mlp.gamma": self.used("mlp", visit)}
        if self.cap is not None:  # the mean is the fraction of channels that are beyond it
            said["attention.beyond_cap"] = self.at("attention", visit).abs() > self.cap
            said["mlp.beyond_cap"] = self.at("mlp", visit).abs() > self.cap
        return said


class FilmShift(BranchRows):
    """Beta: an addend for each channel, by branch and visit."""

    def __init__(self, place: Place) -> None:
        super().__init__(_rows(place, 0.0), _rows(place, 0.0))

    def forward(self, z: Float[Tensor, "B T D"], branch: BranchName, visit: VirtualLayer) -> Float[Tensor, "B T D"]:
        return z + self.at(branch, visit).to(z.dtype)

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"attention.beta": self.at("attention", visit), "mlp.beta": self.at("mlp", visit)}


class Film(nn.Module):
    """Scale, then shift, whichever there are."""

    def __init__(self, config: FilmConfig, place: Place) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        if config.scale:
            self.parts["gamma"] = FilmScale(config, place)
        if config.shift:
            self.parts["beta"] = FilmShift(place)

    def forward(
        self, h: Float[Tensor, "B T D"], branch: BranchName, visit: VirtualLayer, stream: Stream
    ) -> Float[Tensor, "B T D"]:
        for part in self.parts.values():
            h = part(h, branch, visit)
        return h
