import shutil
from importlib import resources

import pytest

from nutshell.data import bundled
from nutshell.data.bundled import BundledCorpus
from nutshell.data.split import SplitText
from nutshell.errors import DataError


@pytest.fixture(scope="module")
def documents():
    return list(BundledCorpus())


def test_documents_are_those_the_manifest_counts(documents):
    rows = BundledCorpus().manifest.files
    assert len(documents) == sum(row.documents for row in rows) == 654
    assert sum(map(len, documents)) == sum(row.text_bytes for row in rows)
    assert len(set(documents)) == len(documents)
    assert all(row.compressed_bytes < 2_000_000 for row in rows)


def test_documents_are_clean_text(documents):
    for document in documents:
        assert b"\r" not in document
        assert document.endswith(b"\n")
        assert not document.endswith(b"\n\n")
        assert document.split(b"\n")[0].strip()
        document.decode("utf-8")
    everything = b"".join(documents)
    assert b"Gutenberg" not in everything.replace(b"Gutenberg Bible", b"")
    assert "\u00e9".encode() in everything, "the two Windows-1252 files are UTF-8 now"


def test_works_are_cut_at_their_parts(documents):
    assert sum(document.startswith(b"CHAPTER ") and b"Ahab" in document for document in documents) > 60
    assert sum(document.startswith(b"Book ") for document in documents) == 12
    assert sum(document.startswith(b"Actus ") for document in documents) == 12


def test_validation_text_has_both_kinds(documents):
    text = SplitText(BundledCorpus(), val_frac=BundledCorpus.val_frac, seed=0)
    first_speech = sum(row.documents for row in BundledCorpus().manifest.files[:2])
    speeches = set(documents[first_speech:])
    kinds = [document.content in speeches for document in text if document.side == "val"]
    assert text.counts.bytes["val"] == 979_523
    assert (len(kinds), sum(kinds)) == (34, 17)


def test_altered_file_is_refused(tmp_path, monkeypatch):
    shutil.copytree(str(resources.files("nutshell") / "assets"), tmp_path / "assets")
    path = tmp_path / "assets" / "corpus" / "sotu-2.jsonl.xz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(bundled.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"sotu-2\.jsonl\.xz: not the published corpus; install nutshell again$"):
        list(BundledCorpus())
