"""Encode an array by a chain of named parts: any number of reversible transforms, then one coder.

A chain is data, `("shuffle", "brotli")`, and is stored beside the payload it made.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from nutshell.codec.coders import CODERS, Coder
from nutshell.codec.transforms import TRANSFORMS, Shape, Transform
from nutshell.errors import ArtifactError

Chain = tuple[str, ...]


def encode(array: Shaped[np.ndarray, "..."], chain: Sequence[str]) -> bytes:
    """Compress an array; nothing becomes no bytes."""
    transforms, coder = _parts(chain)
    array = np.asarray(array, array.dtype.newbyteorder("<"))
    for transform in transforms:
        array = transform.forward(array)
    return coder.encode(array) if array.size else b""


def decode(payload: bytes, chain: Sequence[str], dtype: np.dtype, shape: Shape) -> Shaped[np.ndarray, "..."]:
    """Restore an array, taking memory in proportion to it and to nothing the payload says.

    Raises:
        ArtifactError: the payload is not what `encode` makes of an array of this dtype and shape.
    """
    transforms, coder = _parts(chain)
    stages = [(np.dtype(dtype).newbyteorder("<"), tuple(shape))]
    for transform in transforms:
        stages.append(transform.between(*stages[-1]))
    coded_dtype, coded_shape = stages.pop()
    if 0 in coded_shape:
        if payload:
            raise ArtifactError(f"a section of shape {list(shape)} has {len(payload)} bytes, but must have none")
        array = np.empty(coded_shape, coded_dtype)
    else:
        array = coder.decode(payload, coded_dtype, coded_shape)
    for transform, stage in zip(reversed(transforms), reversed(stages), strict=True):
        array = transform.inverse(array, *stage)
    return array


def _parts(chain: Sequence[str]) -> tuple[list[Transform], Coder]:
    *names, last = chain
    if last not in CODERS or not all(name in TRANSFORMS for name in names):
        known = f"transforms {', '.join(TRANSFORMS)}, then one of {', '.join(CODERS)}"
        raise ArtifactError(f"unknown coding {str(list(chain))[:200]}, this version has {known}")
    if len(set(names)) < len(names):  # `sort_rows` of a line of bytes is five times as long, again and again
        raise ArtifactError(f"a coding has a transform twice: {list(chain)}")
    return [TRANSFORMS[name] for name in names], CODERS[last]
