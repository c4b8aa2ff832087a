"""Damage to artifacts, by accident and by malice, and what may come of it.

`damage` changes bytes anywhere. `reseal` gives the result a correct checksum again, as a hostile author can.
`rewrite` changes the manifest's JSON (sizes, shapes, dtypes, chains, names) and seals that; `reword` changes the
recipe, `respell` the tokenizer, `remodel` the numbers at the front of a payload, and `bomb` makes a section swell.
`absurdities` does what chance would not: one absurd value in each place by turns. Whatever comes of it, `outcome`
allows two things: the artifact is read, or one ArtifactError of one line. Anything else, a crash included, is a bug.
"""

import hashlib
import json
import lzma
import random
import re
import struct
import tomllib
from dataclasses import replace
from functools import cache, partial

import brotli
import numpy as np
import tomli_w

from nutshell.artifact.container import DIGEST_BYTES, MAGIC, VERSION, Section, unpack_container
from nutshell.artifact.load import load
from nutshell.errors import ArtifactError
from nutshell.predict.predictor import ModelStepper
from nutshell.score.generate import generate

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
# What a list or a number of a recipe may be replaced by.
ABSURD = [0, -1, 1, 3, 2**20, 2**63, 10**30, 0.5, -1e300, float("nan"), float("inf"), True, "", "x", [], [[]], {}]
FRONT_BYTES = 24
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
    manifest, rest = open_frame(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        _alter(manifest["sections"], rng)
    if rng.random() < 0.1:
        manifest[rng.choice(["sections", "metadata", "more"])] = rng.choice([{}, [], None, 3, [[]], {"a": [[[]]]}])
    return close_frame(json.dumps(manifest).encode(), rest)


def open_frame(content):
    """Give the manifest as a table, and the payloads."""
    (manifest_bytes,) = struct.unpack_from("<I", content, 6)
    rest = content[HEAD_BYTES + manifest_bytes : -DIGEST_BYTES]
    return json.loads(brotli.decompress(content[HEAD_BYTES : HEAD_BYTES + manifest_bytes])), rest


def close_frame(manifest, rest):
    """Put a manifest's JSON and payloads under a correct checksum."""
    packed = brotli.compress(manifest, quality=1)
    return reseal(MAGIC + struct.pack("<HI", VERSION, len(packed)) + packed + rest + bytes(DIGEST_BYTES))


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
    kind = next(kind for owner, kind in unpack_container(content).sections if owner == name)
    return put_section(content, Section.encode(name, kind, array=np.frombuffer(array, np.uint8), chain=("raw",)))


def put_section(content, section):
    """Add a section, or replace the one of its name and kind, and seal the result whatever the section says."""
    sections = {**unpack_container(content).sections, (section.name, section.kind): section}
    ordered = [section for _, section in sorted(sections.items())]
    entries = [[s.name, s.kind, s.dtype, s.shape, s.chain, len(s.payload)] for s in ordered]
    manifest = json.dumps({"metadata": {}, "sections": entries}).encode()
    return close_frame(manifest, b"".join(section.payload for section in ordered))


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


def remodel(content, rng):
    """Change one to three of the first bytes of a payload, where a coder has its model."""
    section = rng.choice([each for each in unpack_container(content).sections.values() if each.payload])
    payload = bytearray(section.payload)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(min(len(payload), FRONT_BYTES))
        payload[at] = rng.choice([0, 1, 2, 127, 128, 255, payload[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
    return put_section(content, replace(section, payload=bytes(payload)))


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
    section = rng.choice(list(unpack_container(content).sections.values()))
    size = rng.choice([1 << 16, 1 << 22, 1 << 24])
    chain, payload = rng.choice([*_swelling(size), (("ans",), b"\xff\xff\x03\x00\x01" + rng.randbytes(40))])
    shape = rng.choice([section.shape, (size,), (1 << 20, 1 << 7), (1, 1 << 27)])
    return put_section(content, replace(section, chain=chain, payload=payload, shape=shape))


def absurdities(content):
    """List what makes `(sort, bytes)`: an absurd value in each place of manifest, fronts of payloads and recipe."""
    makers = []
    manifest, rest = open_frame(content)
    for place, section in enumerate(manifest["sections"]):
        for field in range(len(section)):
            lists = [[number] for number in NUMBERS] if field == 3 else [[text] for text in TEXTS] if field == 4 else []
            makers += [
                partial(_absurd_manifest, manifest, rest, ("sections", place, field), value)
                for value in [*NUMBERS, *TEXTS, [], {}, None, *lists]
            ]
    for section in unpack_container(content).sections.values():
        makers += [
            partial(_absurd_payload, content, section, at, byte)
            for at in range(min(len(section.payload), FRONT_BYTES))
            for byte in (0, 1, 127, 128, 255)
        ]
    if is_model(content):
        table = tomllib.loads(read_section(content, "recipe").decode())
        makers += [partial(_absurd_recipe, content, table, path, value) for path in _paths(table) for value in ABSURD]
    return makers


def _absurd_manifest(manifest, rest, path, value):
    return "absurd manifest", close_frame(json.dumps(_changed(manifest, path, value)).encode(), rest)


def _absurd_payload(content, section, at, byte):
    payload = section.payload[:at] + bytes([byte]) + section.payload[at + 1 :]
    return "absurd payload", put_section(content, replace(section, payload=payload))


def _absurd_recipe(content, table, path, value):
    return "absurd recipe", replace_section(content, "recipe", tomli_w.dumps(_changed(table, path, value)).encode())


def _paths(table):
    """List the places of a table's tables, lists and values."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in items:
        yield (key,)
        yield from ((key, *path) for path in _paths(value))


def _changed(table, path, value):
    if not path:
        return value
    copy = dict(table) if isinstance(table, dict) else list(table)
    copy[path[0]] = _changed(copy[path[0]], path[1:], value)
    return copy


def _use(loaded):
    """Write two tokens: what loads must run, or say that it cannot."""
    prompt = np.zeros(1, np.int64)
    generate(ModelStepper(loaded), prompt, bos_id=loaded.tokenizer.bos_id, max_tokens=2, temperature=1.0, seed=0)


def is_model(content):
    return ("recipe", "recipe") in unpack_container(content).sections


def outcome(content):
    """Read, decode and use everything: "read", or the message of the one error that is allowed."""
    try:
        container = unpack_container(content)
        for section in container.sections.values():
            section.decode()
        if ("recipe", "recipe") in container.sections:
            _use(load(content))
    except ArtifactError as error:
        message = str(error)
        assert message.isprintable(), f"not one line: {message!r}"
        assert len(message) < 1000, message[:1000]
        return message
    return "read"


SORTS = {
    "damaged": damage,
    "resealed": lambda content, rng: reseal(damage(content, rng)),
    "rewritten": rewrite,
    "remodelled": remodel,
    "bomb": bomb,
}
SORTS_OF_MODELS = {"reworded": reword, "respelt": respell}


def mutant(content, seed, number):
    """Make one of endlessly many mutants, `(sort, bytes)`: the sorts take turns, and none needs those before it."""
    sorts = list((SORTS | SORTS_OF_MODELS if is_model(content) else SORTS).items())
    sort, change = sorts[number % len(sorts)]
    return sort, change(content, random.Random(f"{seed} {number}"))


def mutants(content, seed, count):
    """Yield the first `count` mutants."""
    return (mutant(content, seed, number) for number in range(count))
