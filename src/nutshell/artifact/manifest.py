"""The manifest of an artifact: what its sections are, and the small facts that belong to the file as a whole.

It is stored as MessagePack in columns (all names, then all kinds, ...), which brotli shrinks far better than rows.
Offsets are not stored: sections lie in order of name and kind without gaps, so lengths say everything.
"""

import itertools
import math
from typing import Annotated, Any

import brotli
import msgspec
import numpy as np

from nutshell.codec.coders import unbrotli
from nutshell.errors import ArtifactError

DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32")
MAX_MANIFEST_BYTES = 4 << 20
MAX_DECODED_BYTES = 1 << 30

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_Shape = Annotated[list[_Size], msgspec.Meta(max_length=8)]


class Manifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One column for each property of a section; `codings` points into `chains`."""

    metadata: dict[str, Any]
    chains: list[list[_Name]]
    names: list[_Name]
    kinds: list[_Name]
    dtypes: list[_Size]
    shapes: list[_Shape]
    codings: list[_Size]
    lengths: list[_Size]


def pack_manifest(manifest: Manifest) -> bytes:
    """Write a manifest compactly; equal manifests become equal bytes."""
    return brotli.compress(msgspec.msgpack.encode(manifest, order="deterministic"), quality=11)


def unpack_manifest(content: bytes) -> Manifest:
    """Read a manifest and check all that can be checked before any section is touched.

    Raises:
        ArtifactError: it is damaged, contradicts itself, or promises more than MAX_DECODED_BYTES.
    """
    try:
        manifest = msgspec.msgpack.decode(unbrotli(content, max_bytes=MAX_MANIFEST_BYTES), type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the manifest cannot be read ({error})") from error
    columns = (manifest.kinds, manifest.dtypes, manifest.shapes, manifest.codings, manifest.lengths)
    if any(len(column) != len(manifest.names) for column in columns):
        raise ArtifactError("the manifest's columns differ in length")
    if any(dtype >= len(DTYPES) for dtype in manifest.dtypes):
        raise ArtifactError("the manifest names an unknown dtype")
    if any(coding >= len(manifest.chains) for coding in manifest.codings):
        raise ArtifactError("the manifest points to a coding that it does not have")
    keys = list(zip(manifest.names, manifest.kinds, strict=True))
    if any(first >= second for first, second in itertools.pairwise(keys)):
        raise ArtifactError("the manifest's sections are out of order or repeated")
    num_bytes = sum(
        math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        for shape, dtype in zip(manifest.shapes, manifest.dtypes, strict=True)
    )
    if num_bytes > MAX_DECODED_BYTES:
        raise ArtifactError(f"the sections would decode to {num_bytes} bytes, at most {MAX_DECODED_BYTES} are allowed")
    return manifest
