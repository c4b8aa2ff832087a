"""What a recipe says about quantization: which roles, on which grid, with which step."""

from typing import Annotated, Literal

from msgspec import Meta

from nutshell.config.struct import Kind

MIN_BITS, MAX_BITS = 2, 8

# What is two-dimensional and worth quantizing; gains, gates and scales stay in fp16.
QuantRole = Literal["matrix", "projection", "embedding"]

Bits = Annotated[int, Meta(ge=MIN_BITS, le=MAX_BITS)]


class RtnConfig(Kind, frozen=True, tag="rtn"):
    """Round to nearest, one scale a row.

    With `bits` the grid is fixed: codes of that width, with the row's largest magnitude (or `clip_sigmas` standard
    deviations of the row, if given) at its end. Without, the step is chosen so that the artifact meets its byte budget;
    `extra_bits` shifts these roles against the others, in coded bits a weight.
    """

    roles: tuple[QuantRole, ...]
    bits: Bits | None = None
    clip_sigmas: float | None = None
    extra_bits: float = 0.0

    def __post_init__(self) -> None:
        if self.clip_sigmas is not None and self.clip_sigmas <= 0:
            raise ValueError(f"clip_sigmas must be positive, got {self.clip_sigmas}")
        if self.bits is None and self.clip_sigmas is not None:
            raise ValueError("clip_sigmas has no effect without bits; leave it out")
        if self.bits is not None and self.extra_bits:
            raise ValueError("extra_bits has no effect with fixed bits; leave it out")
