"""Damage to artifacts, by accident and by malice, and what may come of it.

`damage` changes bytes anywhere. `reseal` gives the result a correct checksum again, as a hostile author can.
`rewrite` changes the manifest's JSON (sizes, shapes, dtypes, chains, names) and seals that; `reword` changes the
recipe, `respell` the tokenizer, and `bomb` makes a section swell. Whatever comes of it, `outcome` allows two things:
the artifact is read, or one ArtifactError of one line. Anything else, a crash included, is a bug.
"""

import hashlib
import json
import lzma
import random
import re
import struct
from dataclasses import replace
from functools import cache

import brotli
import numpy as np

from nutshell.artifact.container import DIGEST_BYTES, Section, pack_container, unpack_container
from nutshell.artifact.load import load
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
    "transpose",
    "sort_rows",
    "bitplanes",
    "zstd",
    "trellis8",
    "int8",
    "uint32",
    "float16",
    "float128",
    "codes",
    "\n",
    "a" * 999,
]
SCHEDULES = ["0-99999999", "(0)x999999999", "(" * 2000, "((0)x500)x500", "0 1 2", "", "2 1"]
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


def replace_section(content, name, array):
    """Store other bytes under the name of a section, in a container that is correct otherwise."""
    container = unpack_container(content)
    sections = dict(container.sections)
    kind = next(kind for owner, kind in sections if owner == name)
    sections[name, kind] = Section.encode(name, kind, array=np.frombuffer(array, np.uint8), chain=("raw",))
    return pack_container(sections.values(), container.metadata)


def read_section(content, name):
    sections = unpack_container(content).sections.values()
    return next(section for section in sections if section.name == name).decode().tobytes()


def reword(content, rng):
    """Change numbers and words of the recipe, and pack it again."""
    text = read_section(content, "recipe").decode()
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = [match.span() for match in re.finditer(r"\d+(\.\d+)?|\"[^\"]*\"|\w+ = ", text)]
        start, end = rng.choice(places)
        new = rng.choice([str(rng.choice(NUMBERS)), f'"{rng.choice(SCHEDULES)}"', "", "nan", "[" * 3000, "9" * 5000])
        text = text[:start] + new + text[end:]
    return replace_section(content, "recipe", text.encode())


def respell(content, rng):
    """Damage the tokenizer's model, and pack it again."""
    return replace_section(content, "tokenizer", damage(read_section(content, "tokenizer"), rng))


@cache
def _swelling(size):
    """Payloads of some bytes that become `size` zeros."""
    zeros = bytes(size)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    once = brotli.compress(zeros, quality=5)
    return [
        (("brotli",), once),
        (("brotli",), brotli.compress(once)),
        (("shuffle", "brotli"), once),
        (("lzma",), lzma.compress(zeros, format=lzma.FORMAT_RAW, filters=filters)),
    ]


def bomb(content, rng):
    """Give a section a payload that swells to far more than it says, or says so itself."""
    sections = list(unpack_container(content).sections.values())
    place = rng.randrange(len(sections))
    size = rng.choice([1 << 16, 1 << 22, 1 << 24])
    chain, payload = rng.choice([*_swelling(size), (("ans",), b"\xff\xff\x03\x00\x01" + rng.randbytes(40))])
    shape = rng.choice([sections[place].shape, (size,), (1 << 20, 1 << 7), (1, 1 << 27)])
    sections[place] = replace(sections[place], chain=chain, payload=payload, shape=shape)
    try:
        return pack_container(sections, {})
    except ArtifactError:  # beyond what a manifest may say: nothing to be read
        return reseal(content[:40] + payload + content[40:])


def outcome(content):
    """Read and decode everything: "read", or the message of the one error that is allowed."""
    try:
        container = unpack_container(content)
        for section in container.sections.values():
            section.decode()
        if ("recipe", "recipe") in container.sections:
            load(content)
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
        yield "bomb", bomb(content, rng)
        if ("recipe", "recipe") in unpack_container(content).sections:
            yield "reworded", reword(content, rng)
            yield "respelt", respell(content, rng)


def endless_mutants(contents, rng: random.Random):
    """Yield mutants of several artifacts by turns, without an end."""
    while True:
        for content in contents:
            yield from mutants(content, rng, 1)
