r"""The `.nut` container: named sections of arrays in one deterministic, checksummed file; docs/artifact-format.md.

    magic "\x89NUT" | version u16 | manifest length u32 | manifest | section | section | ... | SHA-256, first 16 bytes

Little-endian throughout. The digest covers every byte before it, is checked first, and guards against accidents;
against malice every size is bounded before anything is allocated, because anyone can compute a digest. Sections are
decoded when asked for. There is nothing executable in the file and nothing outside it is needed to read it.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from jaxtyping import Shaped

from nutshell.artifact.manifest import DTYPES, Manifest, pack_manifest, unpack_manifest
from nutshell.codec import chain as codec
from nutshell.codec.chain import Chain
from nutshell.errors import ArtifactError

MAGIC = b"\x89NUT"
VERSION = 1
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
        assert array.dtype.name in DTYPES, f"section '{name}': {array.dtype} has no place in the format"
        return cls(name, kind, array.dtype.name, array.shape, tuple(chain), codec.encode(array, chain))

    def decode(self) -> Shaped[np.ndarray, "..."]:
        """Restore the array.

        Raises:
            ArtifactError: the payload is not an array of the declared dtype and shape; the message names the section.
        """
        try:
            return codec.decode(self.payload, self.chain, np.dtype(self.dtype), self.shape)
        except ArtifactError as error:
            raise ArtifactError(f"section '{self.name}' ({self.kind}): {error}") from error


@dataclass(frozen=True)
class Container:
    """What a `.nut` file holds.

    Attributes:
        metadata: small facts about the whole, JSON-able.
        sections: by (name, kind), in the order of the file.
        frame_bytes: magic, version, manifest and digest by name; with the sections' payloads that is every byte.
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
            raise ArtifactError(f"the artifact has no section '{name}' ({kind})") from None


def pack_container(sections: Iterable[Section], metadata: Mapping[str, Any]) -> bytes:
    """Write a container; the same sections and metadata, in any order, become the same bytes."""
    ordered = sorted(sections, key=lambda section: (section.name, section.kind))
    chains = sorted({section.chain for section in ordered})
    manifest = pack_manifest(
        Manifest(
            metadata=dict(metadata),
            chains=[list(chain) for chain in chains],
            names=[section.name for section in ordered],
            kinds=[section.kind for section in ordered],
            dtypes=[DTYPES.index(section.dtype) for section in ordered],
            shapes=[list(section.shape) for section in ordered],
            codings=[chains.index(section.chain) for section in ordered],
            lengths=[len(section.payload) for section in ordered],
        )
    )
    unpack_manifest(manifest)  # whatever a reader would refuse must not be written
    body = b"".join([_HEAD.pack(MAGIC, VERSION, len(manifest)), manifest, *(section.payload for section in ordered)])
    return body + _digest(body)


def unpack_container(content: bytes, *, where: str = "artifact") -> Container:
    """Read a container without decoding its sections; `where` (a path) opens every error message.

    Raises:
        ArtifactError: not a container, another version, truncated, altered, or impossible.
    """
    try:
        return _unpack(content)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from error


def _unpack(content: bytes) -> Container:
    if not content.startswith(MAGIC):
        raise ArtifactError("not a nutshell artifact (its first bytes are wrong)")
    if len(content) < _HEAD.size + DIGEST_BYTES:
        raise ArtifactError(f"truncated: {len(content)} bytes are too few for any artifact")
    _, version, manifest_bytes = _HEAD.unpack_from(content)
    if version != VERSION:
        raise ArtifactError(f"format version {version}, but this nutshell reads version {VERSION}")
    end = len(content) - DIGEST_BYTES
    if _digest(content[:end]) != content[end:]:
        raise ArtifactError("damaged: the checksum does not match, so the file was truncated or altered")
    start = _HEAD.size + manifest_bytes
    manifest = unpack_manifest(content[_HEAD.size : min(start, end)])
    if start + sum(manifest.lengths) != end:
        raise ArtifactError(f"the sections should end at byte {start + sum(manifest.lengths)}, but end at {end}")
    sections = {}
    for index, key in enumerate(zip(manifest.names, manifest.kinds, strict=True)):
        stop = start + manifest.lengths[index]
        sections[key] = Section(
            *key,
            dtype=DTYPES[manifest.dtypes[index]],
            shape=tuple(manifest.shapes[index]),
            chain=tuple(manifest.chains[manifest.codings[index]]),
            payload=content[start:stop],
        )
        start = stop
    frame = {"head": _HEAD.size, "manifest": manifest_bytes, "digest": DIGEST_BYTES}
    return Container(manifest.metadata, sections, frame)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:DIGEST_BYTES]
