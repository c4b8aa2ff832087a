import struct

import numpy as np
import pytest

import artifact_mutations
import codec_arrays
from nutshell.artifact.container import Section, pack_container, unpack_container
from nutshell.errors import ArtifactError

SECTIONS = [
    Section.encode(name, kind, array=array, chain=("brotli",) if array.dtype.kind == "f" else ("ans",))
    for kind, arrays in (("float", codec_arrays.FLOATS), ("codes", codec_arrays.INTEGERS))
    for name, array in arrays.items()
]
METADATA = {"recipe": "model_dim = 8\n", "numbers": [1, 0.1, None]}


@pytest.fixture(scope="module")
def content():
    return pack_container(SECTIONS, METADATA)


def test_every_array_and_all_metadata_come_back(content):
    container = unpack_container(content)
    assert container.metadata == METADATA
    assert list(container.sections) == sorted((section.name, section.kind) for section in SECTIONS)
    for kind, arrays in (("float", codec_arrays.FLOATS), ("codes", codec_arrays.INTEGERS)):
        for name, array in arrays.items():
            np.testing.assert_array_equal(container.section(name, kind).decode(), array, strict=False)
            assert container.sections[name, kind].dtype == array.dtype.name


def test_equal_input_in_any_order_makes_equal_bytes(content):
    assert pack_container(reversed(SECTIONS), dict(reversed(METADATA.items()))) == content


def test_the_file_is_head_manifest_payloads_digest_and_nothing_else(content):
    container = unpack_container(content)
    magic, version, manifest_bytes = struct.unpack_from("<4sHI", content)
    assert (magic, version) == (b"\x89NUT", 2)
    assert container.frame_bytes == {"head": 10, "manifest": manifest_bytes, "digest": 16}
    payloads = b"".join(section.payload for section in container.sections.values())
    assert content[10 + manifest_bytes : -16] == payloads


def test_the_frame_of_sixty_quantized_tensors_is_small():
    rng = np.random.default_rng(0)
    sections = []
    for block in range(10):
        for part in ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down"):
            rows = 16 * int(rng.integers(1, 5))
            codes = np.rint(rng.standard_normal((rows, 32)) * 3).astype(np.int8)
            name = f"blocks.{block}.{part}.weight"
            sections.append(Section.encode(name, "codes", array=codes, chain=("ans",)))
            scale = rng.lognormal(-4, 0.5, rows).astype(np.float16)
            sections.append(Section.encode(name, "scale", array=scale, chain=("shuffle", "brotli")))
    frame = unpack_container(pack_container(sections, {})).frame_bytes
    assert sum(frame.values()) < 800


def patched(content, at, new):
    return artifact_mutations.reseal(content[:at] + new + content[at + len(new) :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "not a nutshell artifact"),
        (lambda content: b"PK\3\4" + content[4:], "not a nutshell artifact"),
        (lambda content: content[:20], "cut short within its first bytes"),
        (lambda content: patched(content, 4, b"\1\0"), "format version 1, but this nutshell reads only version 2"),
        (lambda content: content[:-1], "checksum does not match"),
        (lambda content: content[:100] + b"\0" + content[101:], "checksum does not match"),
        (lambda content: patched(content, 6, b"\xff\xff\xff\xff"), "manifest cannot be read"),
        (lambda content: patched(content, 6, b"\0\0\0\0"), "manifest cannot be read"),
        (lambda content: artifact_mutations.reseal(content + b"\0"), "sections end at byte"),
        (lambda content: artifact_mutations.reseal(content[:-1]), "sections end at byte"),
    ],
)
def test_a_broken_frame_is_refused_with_the_path_in_front(content, change, message):
    with pytest.raises(ArtifactError, match=f"^runs/a.nut: .*{message}"):
        unpack_container(change(content), where="runs/a.nut")


def test_a_broken_section_is_named_when_it_is_decoded_and_only_then(content):
    end = len(content) - 16
    container = unpack_container(artifact_mutations.reseal(content[: end - 3] + b"\xff\xff\xff" + content[end:]))
    *good, last = container.sections
    for key in good:
        container.section(*key).decode()
    with pytest.raises(ArtifactError, match=r"^section 'two spikes' \('codes'\): "):
        container.section(*last).decode()


def test_a_missing_section_is_named(content):
    with pytest.raises(ArtifactError, match=r"^no section 'one bell' \('scale'\); the artifact is incomplete"):
        unpack_container(content).section("one bell", "scale")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([SECTIONS[0], SECTIONS[0]], "repeated"),
        ([Section.encode("a", "b", array=np.zeros(3), chain=("raw",))], "unknown dtype 'float64'"),
        ([Section("a", "b", "int8", (1 << 28, 2), ("raw",), b"")], "would decode to"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(sections, message):
    with pytest.raises(ArtifactError, match=message):
        pack_container(sections, {})
