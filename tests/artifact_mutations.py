"""Damage to artifacts, by accident and by malice, and what may come of it.

`damage` changes bytes anywhere. `reseal` gives the result a correct checksum again, as a hostile author can. `rewrite`
changes the manifest's JSON (sizes, shapes, dtypes, chains, names) and seals that. Whatever comes of it, `outcome`
allows two things: the artifact is read, or one ArtifactError of one line. Anything else, a crash included, is a bug.
"""

import hashlib
import json
import random
import struct

import brotli

from nutshell.artifact.container import DIGEST_BYTES, unpack_container
from nutshell.errors import ArtifactError

HEAD_BYTES = 10
NUMBERS = [0, 1, 2, 3, 7, 64, 255, 256, 65535, 65536, 2**20, 2**28, 2**28 + 1, 2**31, 2**32, 2**63, 10**30, -1, 0.5]
TEXTS = [
    "",
    "ans",
    "raw",
    "brotli",
    "lzma",
    "shuffle",
    "int8",
    "uint32",
    "float16",
    "float128",
    "codes",
    "\n",
    "a" * 999,
]
EXTREMES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\0\0\0\0"]


def damage(content, rng):
    """Change one to three places: a bit, a byte, a span cut, doubled, inserted or overwritten, the end cut or grown."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(len(content), 64))
        span = rng.choice([1, 1, 2, 4, 30, 1 + len(content) // 3])
        before, part, after = content[:at], content[at : at + span], content[at + span :]
        match rng.randrange(7):
            case 0:
                part = bytes([part[0] ^ 1 << rng.randrange(8)]) + part[1:]
            case 1:
                part = rng.choice(EXTREMES) + part[1:]
            case 2:
                part = b""
            case 3:
                part = part + part
            case 4:
                part = rng.randbytes(span)
            case 5:
                after = b""
            case 6:
                after = after + rng.randbytes(span)
        content = before + part + after or b"\0"
    return content


def reseal(content):
    body = content[:-DIGEST_BYTES]
    return body + hashlib.sha256(body).digest()[:DIGEST_BYTES]


def rewrite(content, rng):
    """Change one to three values of the manifest, or its list of sections, and seal the result."""
    (manifest_bytes,) = struct.unpack_from("<I", content, 6)
    rest = content[HEAD_BYTES + manifest_bytes : -DIGEST_BYTES]
    manifest = json.loads(brotli.decompress(content[HEAD_BYTES : HEAD_BYTES + manifest_bytes]))
    for _ in range(rng.choice([1, 1, 2, 3])):
        _alter(manifest["sections"], rng)
    if rng.random() < 0.1:
        manifest[rng.choice(["sections", "metadata", "more"])] = rng.choice([{}, [], None, 3, [[]], {"a": [[[]]]}])
    packed = brotli.compress(json.dumps(manifest).encode(), quality=1)
    head = content[:6] + struct.pack("<I", len(packed))
    return reseal(head + packed + rest + bytes(DIGEST_BYTES))


def _alter(sections, rng):
    section = rng.choice(sections)
    place = rng.randrange(len(section))
    match rng.randrange(6):
        case 0 | 1:
            shape = section[3] if len(section) > 3 and isinstance(section[3], list) else []
            shape[: rng.randrange(2)] = [rng.choice(NUMBERS) for _ in range(rng.choice([1, 1, 2, 9]))]
        case 2:
            section[place] = rng.choice([rng.choice(NUMBERS), rng.choice(TEXTS), [], {}, None])
        case 3:
            section[4:5] = [[rng.choice(TEXTS) for _ in range(rng.choice([0, 1, 2, 9]))]]
        case 4:
            rng.shuffle(sections)
        case 5:
            sections.append(list(section))


def outcome(content):
    """Read and decode everything: "read", or the message of the one error that is allowed."""
    try:
        for section in unpack_container(content).sections.values():
            section.decode()
    except ArtifactError as error:
        message = str(error)
        assert message.isprintable(), f"not one line: {message!r}"
        assert len(message) < 1000, message[:1000]
        return message
    return "read"


def mutants(content, rng: random.Random, count):
    """Yield `count` of each sort: `(sort, bytes)`."""
    for _ in range(count):
        damaged = damage(content, rng)
        yield "damaged", damaged
        yield "resealed", reseal(damaged)
        yield "rewritten", rewrite(content, rng)
