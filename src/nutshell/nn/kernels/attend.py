"""Causal attention with grouped key/value heads: one meaning, and a kernel for each kind of machine.

    products   two matrix products and a softmax   CPU, short windows; the definition
    fused      torch's fused kernels               everywhere
    varlen     torch's variable-length kernel      NVIDIA GPU, within documents

Tests hold them together; choose.py picks one.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from nutshell.nn.cache import DocumentIds
from nutshell.nn.kernels.fused import attend_fused
from nutshell.nn.kernels.products import attend_products
from nutshell.nn.kernels.varlen import attend_varlen

AttendKind = Literal["products", "fused", "varlen"]
KERNELS = {"products": attend_products, "fused": attend_fused, "varlen": attend_varlen}


def attend(
    q: Float[Tensor, "B T H E"],
    k: Float[Tensor, "B S K E"],
    v: Float[Tensor, "B S K E"],
    kind: AttendKind,
    documents: DocumentIds | None = None,
) -> Float[Tensor, "B T H E"]:
    """Attend from the last T of S positions to all positions up to each one's own; logits scaled by 1/sqrt(E).

    With `documents`, a position sees those of its own document only.
    """
    return KERNELS[kind](q, k, v, documents)
