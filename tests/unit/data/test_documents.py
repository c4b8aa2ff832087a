import gzip
import json
import lzma

import pytest
import zstandard

from nutshell.data.documents import TextFiles, read_documents
from nutshell.errors import DataError

COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress, "": bytes}
ANY_BYTES = bytes(range(256)) * 2000


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", COMPRESS)
def test_plain_file_is_one_document_of_exactly_its_bytes(tmp_path, suffix):
    path = write(tmp_path / f"a.txt{suffix}", COMPRESS[suffix](ANY_BYTES))
    assert list(read_documents(path)) == [ANY_BYTES]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_jsonl_has_a_document_a_line(tmp_path, suffix):
    texts = ["one\ntwo", "", "\u00e9t\u00e9 \u2581 \U0001f600", "x" * 100_000]
    lines = "".join(json.dumps({"id": 7, "text": text}) + "\n" for text in texts) + "\n"
    path = write(tmp_path / f"a.jsonl{suffix}", COMPRESS[suffix](lines.encode()))
    assert list(read_documents(path)) == [text.encode() for text in texts]


def test_zstandard_frames_one_after_another_are_one_file(tmp_path):
    path = write(tmp_path / "a.zst", zstandard.compress(b"one ") + zstandard.compress(ANY_BYTES))
    assert list(read_documents(path)) == [b"one " + ANY_BYTES]


def test_folder_is_read_in_the_order_of_its_paths_without_hidden_files(tmp_path):
    write(tmp_path / "b.txt", b"b")
    write(tmp_path / "a" / "z.md", b"z")
    write(tmp_path / "a" / "c.txt.gz", gzip.compress(b"c"))
    write(tmp_path / ".git" / "config", b"hidden")
    write(tmp_path / ".hidden.txt", b"hidden")
    source = TextFiles([tmp_path / "b.txt", tmp_path])
    assert list(source) == [b"b", b"c", b"z", b"b"]
    assert list(source) == [b"b", b"c", b"z", b"b"], "a source can be read again"
    assert source.description == f"b.txt, {tmp_path.name}"


def test_folder_inside_a_hidden_folder_is_not_hidden(tmp_path):
    write(tmp_path / ".cache" / "text" / "a.txt", b"a")
    assert list(TextFiles([tmp_path / ".cache" / "text"])) == [b"a"]


def test_missing_path(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: no such file or folder$"):
        list(TextFiles([tmp_path / "none.txt"]))


def test_unreadable_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)$"):
        list(read_documents(tmp_path))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut short", "other content", "bit flipped"])
def test_damaged_archive(tmp_path, suffix, damage):
    content = COMPRESS[suffix](ANY_BYTES)
    content = {
        "cut short": content[:-5],
        "other content": b"this is not compressed",
        "bit flipped": bytes([content[0] ^ 1]) + content[1:],
    }[damage]
    path = write(tmp_path / f"a.txt{suffix}", content)
    with pytest.raises(DataError, match=rf"a\.txt\{suffix}: the \{suffix} file is damaged or cut short \(.*\); copy"):
        list(read_documents(path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 3}', "missing required field `text`"),
        (b'{"text": 3}', "Expected `str`, got `int`"),
        (b'["text"]', "Expected `object`, got `array`"),
        (b"plain text", "malformed"),
        (b'{"text": "\xff"}', "utf-8"),
        (rb'{"text": "\ud800"}', ""),
    ],
)
def test_line_without_text_is_named(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(DataError, match=rf'a\.jsonl:2: not a JSON object with a string field "text" \(.*{reason}'):
        list(read_documents(path))
