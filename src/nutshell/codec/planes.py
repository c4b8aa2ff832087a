"""The narrow waist between deciding values (quant) and deciding bits (codec).

A quantizer turns a weight into integer codes, a few side arrays, and a spec that says how to turn them back. The codec
stores arrays; what a scale is, only the dequantizer named in the spec knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class CodePlanes:
    """One quantized tensor.

    Attributes:
        codes: integers in the shape of the tensor.
        sides: what dequantizing needs besides the codes, e.g. `{"scale": float16 [R]}`.
        spec: the dequantizer and its settings; JSON-able.
    """

    codes: Int[np.ndarray, "..."]
    sides: Mapping[str, np.ndarray] = field(default_factory=dict)
    spec: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.codes.dtype.kind in "iu", f"codes are integers, got {self.codes.dtype}"
