r"""The `.nut` container: named sections of arrays in one deterministic, checksummed file; docs/artifact-format.md.

    magic "\x89NUT" | version u16 | manifest length u32 | manifest | section | section | ... | SHA-256, first 16 bytes

Little-endian throughout. The digest covers every byte before it and is checked first. It guards against accidents;
against malice every size is bounded before anything is allocated, because anyone can compute a digest. Sections are
decoded when asked for. Nothing in the file is executable, and nothing outside it is needed to read it.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from jaxtyping import Shaped

from nutshell.artifact.manifest import Manifest, SectionEntry, pack_manifest, unpack_manifest
from nutshell.codec import chain as codec
from nutshell.codec.chain import Chain
from nutshell.errors import ArtifactError

MAGIC = b"\x89NUT"
VERSION = 2
DIGEST_BYTES = 16
_HEAD = struct.Struct("<4sHI")


@dataclass(frozen=True)
class Section:
    """One encoded array. `name` says whose it is, `kind` what role it plays; the pair is unique in a container."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    chain: Chain
    payload: bytes = field(repr=False)

    @classmethod
    def encode(cls, name: str, kind: str, *, array: Shaped[np.ndarray, "..."], chain: Chain) -> Self:
        """Encode an array by a chain of the codec."""
        return cls(name, kind, array.dtype.name, array.shape, chain, codec.encode(array, chain))

    def decode(self) -> Shaped[np.ndarray, "..."]:
        """Restore the array.

        Raises:
            ArtifactError: the payload is no array of this dtype and shape; the message names the section.
        """
        try:
            return codec.decode(self.payload, self.chain, np.dtype(self.dtype), self.shape)
        except ArtifactError as error:
            raise ArtifactError(f"section {self.name!r} ({self.kind!r}): {error}") from error


@dataclass(frozen=True)
class Container:
    """What a `.nut` file holds.

    Attributes:
        metadata: small facts about the whole, JSON-able.
        sections: by (name, kind), in the order of the file.
        frame_bytes: sizes of head, manifest and digest; with the sections' payloads that is every byte.
    """

    metadata: Mapping[str, Any]
    sections: Mapping[tuple[str, str], Section]
    frame_bytes: Mapping[str, int]

    def section(self, name: str, kind: str) -> Section:
        """Look a section up.

        Raises:
            ArtifactError: there is none.
        """
        try:
            return self.sections[name, kind]
        except KeyError:
            raise ArtifactError(f"no section {name!r} ({kind!r}); the artifact is incomplete") from None


def pack_container(sections: Iterable[Section], metadata: Mapping[str, Any]) -> bytes:
    """Write a container; the same sections and metadata, in any order, become the same bytes.

    Raises:
        ArtifactError: the format has no place for this: a name twice, a dtype it lacks, more data than it allows.
    """
    ordered = sorted(sections, key=lambda section: (section.name, section.kind))
    entries = [
        SectionEntry(section.name, section.kind, section.dtype, section.shape, section.chain, len(section.payload))
        for section in ordered
    ]
    manifest = pack_manifest(Manifest(metadata=dict(metadata), sections=entries))
    unpack_manifest(manifest)  # what a reader would refuse must not be written
    payloads = [section.payload for section in ordered]
    body = b"".join([_HEAD.pack(MAGIC, VERSION, len(manifest)), manifest, *payloads])
    return body + _digest(body)


def unpack_container(content: bytes, *, where: str = "artifact") -> Container:
    """Read a container without decoding its sections; `where`, usually its path, opens every message.

    Raises:
        ArtifactError: not a container, another version, truncated, altered, or impossible.
    """
    try:
        manifest, manifest_bytes = _open(content)
        sections, start = {}, _HEAD.size + manifest_bytes
        for entry in manifest.sections:
            payload = content[start : start + entry.num_bytes]
            key = (entry.name, entry.kind)
            sections[key] = Section(*key, dtype=entry.dtype, shape=entry.shape, chain=entry.chain, payload=payload)
            start += entry.num_bytes
        if start != len(content) - DIGEST_BYTES:
            raise ArtifactError(f"its sections end at byte {start}, its digest begins at {len(content) - DIGEST_BYTES}")
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from error
    frame = {"head": _HEAD.size, "manifest": manifest_bytes, "digest": DIGEST_BYTES}
    return Container(manifest.metadata, sections, frame)


def _open(content: bytes) -> tuple[Manifest, int]:
    """Check the frame and read the manifest; also the bytes that the manifest takes."""
    if len(content) < _HEAD.size + DIGEST_BYTES or not content.startswith(MAGIC):
        raise ArtifactError("not a nutshell artifact, or cut short within its first bytes")
    _, version, manifest_bytes = _HEAD.unpack_from(content)
    if version != VERSION:
        raise ArtifactError(f"has format version {version}, but this nutshell reads only version {VERSION}")
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if _digest(body) != digest:
        raise ArtifactError("damaged: its checksum does not match, so it was cut short or altered; get a fresh copy")
    return unpack_manifest(body[_HEAD.size : _HEAD.size + manifest_bytes]), manifest_bytes


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:DIGEST_BYTES]
