"""The manifest of an artifact: what its sections are, and the small facts that belong to the file as a whole.

It is JSON under brotli: for the names and sizes of a model that takes no more bytes than a binary encoding, and anyone
can read it. Offsets are not stored: sections lie without gaps in order of name and kind, so lengths say everything.
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
MAX_MANIFEST_BYTES = 1 << 20  # as JSON; some ten thousand sections
MAX_DECODED_BYTES = 1 << 28  # of all sections together: an artifact of 64 MB at two bits a weight

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_DECODED_BYTES)]


class SectionEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One section: whose it is, its role, and how to read its `num_bytes` bytes."""

    name: _Name
    kind: _Name
    dtype: _Name
    shape: Annotated[tuple[_Size, ...], msgspec.Meta(max_length=8)]
    chain: Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=8)]
    num_bytes: _Size


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a container but the payloads."""

    metadata: dict[str, Any]
    sections: list[SectionEntry]


def pack_manifest(manifest: Manifest) -> bytes:
    """Write a manifest; equal manifests become equal bytes."""
    return brotli.compress(msgspec.json.encode(manifest, order="deterministic"), quality=11)


def unpack_manifest(content: bytes) -> Manifest:
    """Read a manifest and check all that can be checked before any section is touched.

    Raises:
        ArtifactError: it is damaged, contradicts itself, or promises more than MAX_DECODED_BYTES.
    """
    try:
        manifest = msgspec.json.decode(unbrotli(content, max_bytes=MAX_MANIFEST_BYTES), type=Manifest)
    except (ArtifactError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the manifest cannot be read ({error})") from error
    keys = [(section.name, section.kind) for section in manifest.sections]
    if any(first >= second for first, second in itertools.pairwise(keys)):
        raise ArtifactError("the manifest's sections are out of order or repeated")
    total_bytes = 0
    for section in manifest.sections:
        if section.dtype not in DTYPES:
            raise ArtifactError(f"section {section.name!r} has the unknown dtype {section.dtype!r}")
        # An empty array may not hide an absurd size behind its zero.
        total_bytes += math.prod(max(size, 1) for size in section.shape) * np.dtype(section.dtype).itemsize
    if total_bytes > MAX_DECODED_BYTES:
        raise ArtifactError(
            f"its sections would decode to {total_bytes} bytes, more than the {MAX_DECODED_BYTES} allowed"
        )
    return manifest
