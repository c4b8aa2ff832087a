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
MAX_MANIFEST_BYTES = 1 << 20  # as JSON
MAX_SECTIONS = 1 << 12
# What all sections together may decode to, whatever they say: some 4 MB for nothing, as constants cost no bytes;
# more in proportion to the payloads, down to a quarter of a bit for a code of one byte; and never more than 2^28.
MAX_DECODED_BYTES, FREE_DECODED_BYTES, DECODED_PER_BYTE = 1 << 28, 1 << 22, 32
# Sections that are text: tomllib takes time and memory by the square of a dotted key, SentencePiece some by the piece.
MAX_BYTES_OF_KIND = {"recipe": 1 << 14, "tokenizer": 1 << 22, "pieces": 1 << 22}

_Name = Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A[ -~]+\Z")]
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
        ArtifactError: it is damaged, contradicts itself, or promises more than a file of its size may hold.
    """
    try:
        manifest = msgspec.json.decode(unbrotli(content, max_bytes=MAX_MANIFEST_BYTES), type=Manifest)
    except (ArtifactError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactError(f"the manifest cannot be read ({error})") from error
    keys = [(section.name, section.kind) for section in manifest.sections]
    if any(first >= second for first, second in itertools.pairwise(keys)):
        raise ArtifactError("the manifest's sections are out of order or repeated")
    if len(keys) > MAX_SECTIONS:
        raise ArtifactError(f"the manifest has {len(keys)} sections, at most {MAX_SECTIONS} are allowed")
    _check_sizes(manifest.sections)
    return manifest


def _check_sizes(sections: list[SectionEntry]) -> None:
    total_bytes = 0
    for section in sections:
        if section.dtype not in DTYPES:
            raise ArtifactError(f"section {section.name!r} has the unknown dtype {section.dtype!r}")
        # An empty array may not hide an absurd size behind its zero.
        num_bytes = math.prod(max(size, 1) for size in section.shape) * np.dtype(section.dtype).itemsize
        total_bytes += num_bytes
        if num_bytes > (allowed := MAX_BYTES_OF_KIND.get(section.kind, num_bytes)):
            raise ArtifactError(f"a section of kind {section.kind!r} would decode to {num_bytes} bytes, over {allowed}")
    payload_bytes = sum(section.num_bytes for section in sections)
    if total_bytes > (allowed := min(MAX_DECODED_BYTES, FREE_DECODED_BYTES + DECODED_PER_BYTE * payload_bytes)):
        raise ArtifactError(
            f"its sections would decode to {total_bytes} bytes, more than the {allowed} allowed for {payload_bytes}"
        )
