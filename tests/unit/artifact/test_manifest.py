import brotli
import msgspec
import pytest

from nutshell.artifact.manifest import (
    MAX_DECODED_BYTES,
    MAX_SECTIONS,
    Manifest,
    SectionEntry,
    pack_manifest,
    unpack_manifest,
)
from nutshell.errors import ArtifactError

GOOD = ["a.weight", "codes", "int8", [3, 4], ["ans"], 12]
LIMIT = MAX_DECODED_BYTES


def packed(*sections, **more):
    return brotli.compress(msgspec.json.encode({"metadata": {}, "sections": list(sections), **more}))


def with_values(**changes):
    fields = dict(zip(SectionEntry.__struct_fields__, GOOD, strict=True)) | changes
    return list(fields.values())


def test_a_manifest_survives_packing():
    sections = [SectionEntry("a", kind, "float16", (2, 3), ("shuffle", "lzma"), 5) for kind in ("codes", "scale")]
    manifest = Manifest(metadata={"b": [1, 2.5, None, {"c": "\u00e9"}], "a": True}, sections=sections)
    assert unpack_manifest(pack_manifest(manifest)) == manifest
    assert pack_manifest(manifest) == pack_manifest(
        msgspec.structs.replace(manifest, metadata={"a": True, "b": manifest.metadata["b"]})
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"\xff" * 20, "damaged"),
        (packed(GOOD)[:-2], "cut short"),
        (packed(GOOD) + b"more", "brotli stream"),
        (brotli.compress(bytes(2 << 20)), "more than the 1048576 bytes"),
        (brotli.compress(b"{"), "cannot be read"),
        (brotli.compress(b'{"metadata":{"a":' + b"[" * 100_000), "cannot be read"),
        (brotli.compress(b'{"metadata":{"a":"\xff\xfe"},"sections":[]}'), "cannot be read"),
        (packed(GOOD, more=1), "unknown field `more`"),
        (packed(GOOD[:-1]), "cannot be read"),
        (packed([*GOOD, 1]), "cannot be read"),
        (packed(GOOD, GOOD), "out of order or repeated"),
        (packed(with_values(name="b"), GOOD), "out of order or repeated"),
        (packed(with_values(dtype="float64")), "unknown dtype 'float64'"),
        (packed(with_values(dtype="object")), "unknown dtype 'object'"),
        (packed(with_values(name="")), "cannot be read"),
        (packed(with_values(name="n" * 201)), "cannot be read"),
        (packed(with_values(name="a\n")), "cannot be read"),
        (packed(with_values(kind="\u202e")), "cannot be read"),
        (packed(with_values(kind="recipe", shape=[(1 << 14) + 1], num_bytes=LIMIT)), "over 16384"),
        (packed(with_values(kind="tokenizer", shape=[(1 << 22) + 1], num_bytes=LIMIT)), "over 4194304"),
        (packed(with_values(kind="pieces", shape=[(1 << 22) + 1], num_bytes=LIMIT)), "over 4194304"),
        (packed(*(with_values(name=f"{n:04}") for n in range(MAX_SECTIONS + 1))), f"has {MAX_SECTIONS + 1} sections"),
        (packed(with_values(chain=[])), "cannot be read"),
        (packed(with_values(shape=[-1])), "cannot be read"),
        (packed(with_values(shape=[1] * 9)), "cannot be read"),
        (packed(with_values(shape=[10**30])), "cannot be read"),
        (packed(with_values(num_bytes=-1)), "cannot be read"),
        (packed(with_values(shape=[LIMIT, 2])), f"would decode to {2 * LIMIT} bytes"),
        (packed(with_values(shape=[LIMIT // 4 + 1], dtype="float32")), f"would decode to {LIMIT + 4} bytes"),
        (packed(with_values(shape=[0, LIMIT, LIMIT])), "would decode to"),
        (packed(with_values(shape=[LIMIT]), with_values(name="b", shape=[1])), f"would decode to {LIMIT + 1} bytes"),
    ],
)
def test_an_impossible_manifest_is_refused(content, message):
    with pytest.raises(ArtifactError, match=message) as caught:
        unpack_manifest(content)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("num_bytes", "allowed"), [(0, 1 << 22), (12, (1 << 22) + 12 * 32), (1 << 23, LIMIT), (LIMIT, LIMIT)]
)
def test_what_sections_may_hold_follows_from_their_payloads(num_bytes, allowed):
    unpack_manifest(packed(with_values(shape=[allowed], num_bytes=num_bytes)))
    two = [with_values(shape=[allowed], num_bytes=num_bytes), with_values(name="b", shape=[1], num_bytes=0)]
    with pytest.raises(ArtifactError, match=f"decode to {allowed + 1} bytes, more than the {allowed} allowed"):
        unpack_manifest(packed(*two))


def test_as_many_sections_as_allowed_are_read():
    unpack_manifest(packed(*(with_values(name=f"{number:04}") for number in range(MAX_SECTIONS))))
