import errno
import hashlib
import json

import numpy as np
import pytest

from nutshell.data import corpus
from nutshell.data.corpus import BuildConfig, build
from nutshell.data.shards import read_shard
from nutshell.data.split import SplitText
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import DataError
from text_samples import ListSource, chapters

CONFIG = BuildConfig(vocab_size=400, val_frac=0.3)
ODD = [b"\xff\0 not text", "a literal \u2581".encode(), b" ", b"<s> no BOS </s>"]


@pytest.fixture(scope="module")
def documents():
    return [*chapters(8), *ODD, chapters()[0]]


def split(documents, side):
    text = SplitText(ListSource(documents), val_frac=0.3, seed=0)
    return [document.content for document in text if document.side == side]


def test_shards_hold_every_document_in_order(tmp_path, documents):
    dataset = build(ListSource(documents), tmp_path / "data", CONFIG)
    for side in ("train", "val"):
        tokens = read_shard(tmp_path / "data" / f"nutshell_{side}_000000.bin")
        assert tokens[0] == dataset.tokenizer.bos_id
        starts = np.flatnonzero(tokens == dataset.tokenizer.bos_id)
        decoded = [dataset.tokenizer.decode(part[1:]) for part in np.split(tokens, starts)[1:]]
        assert decoded == split(documents, side)


def test_manifest_says_what_the_folder_holds(tmp_path, documents):
    build(ListSource(documents), tmp_path / "data", CONFIG)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_bytes())
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "data").iterdir()}
    assert hashes.keys() == {
        "manifest.json",
        "tokenizer.model",
        "nutshell_train_000000.bin",
        "nutshell_val_000000.bin",
    }
    assert manifest["tokenizer_sha256"] == hashes["tokenizer.model"]
    assert (manifest["source"], manifest["empty_documents"], manifest["duplicate_documents"]) == ("a list", 1, 1)
    assert (manifest["vocab_size"], manifest["val_frac"], manifest["split_seed"]) == (400, 0.3, 0)
    for side in ("train", "val"):
        name = f"nutshell_{side}_000000.bin"
        tokens = len(read_shard(tmp_path / "data" / name))
        expected = split(documents, side)
        assert manifest[side] == {
            "documents": len(expected),
            "bytes": sum(map(len, expected)),
            "tokens": tokens,
            "shards": [{"name": name, "tokens": tokens, "sha256": hashes[name]}],
        }


def test_tokenizer_learns_from_training_documents_alone(tmp_path, documents):
    dataset = build(ListSource(documents), tmp_path / "data", CONFIG)
    train = corpus.train_tokenizer(split(documents, "train"), vocab_size=400)
    assert dataset.tokenizer.sha256 == train.sha256


def test_same_text_gives_the_same_bytes(tmp_path, documents):
    first = build(ListSource(documents), tmp_path / "a", CONFIG)
    second = build(ListSource(documents), tmp_path / "b", CONFIG)
    assert first.digest == second.digest
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_shards_are_cut_at_their_size_and_read_as_one_stream(tmp_path, documents):
    whole = build(ListSource(documents), tmp_path / "a", CONFIG)
    parts = build(ListSource(documents), tmp_path / "b", BuildConfig(vocab_size=400, val_frac=0.3, shard_tokens=10_000))
    shards = parts.manifest.train.shards
    assert len(shards) > 2
    assert [shard.tokens for shard in shards[:-1]] == [10_000] * (len(shards) - 1)
    assert parts.train[0 : len(parts.train)].tolist() == whole.train[0 : len(whole.train)].tolist()


def test_progress_ends_where_the_text_ends(tmp_path, documents):
    calls = []
    dataset = build(ListSource(documents), tmp_path / "data", CONFIG, lambda *call: calls.append(call))
    total = dataset.manifest.train.bytes + dataset.manifest.val.bytes
    assert [call for call in calls if call[0] == "tokenizing"][-1] == ("tokenizing", total, total)
    assert list(dict.fromkeys(call[0] for call in calls)) == [
        "reading",
        "training the tokenizer",
        "tokenizing",
        "decoding it all again",
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_failed_build_leaves_nothing(tmp_path, documents, monkeypatch, error):
    def fail(path, tokens):
        raise error

    monkeypatch.setattr(corpus, "write_shard", fail)
    raised = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataError
    with pytest.raises(raised) as caught:
        build(ListSource(documents), tmp_path / "data", CONFIG)
    if raised is DataError:
        expected = f"{tmp_path / 'data'}: the data set cannot be written (No space left on device)"
        assert str(caught.value) == expected
    assert list(tmp_path.iterdir()) == []


def test_text_that_does_not_come_back_fails_the_build(tmp_path, documents, monkeypatch):
    monkeypatch.setattr(Tokenizer, "decode", lambda self, tokens: b"other text")
    with pytest.raises(DataError, match="train document 0 does not decode to its text; please report this"):
        build(ListSource(documents), tmp_path / "data", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_not_touched(tmp_path, documents):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"exists already; choose another folder, or delete this one$"):
        build(ListSource(documents), tmp_path, CONFIG)
    with pytest.raises(DataError, match="exists already"):
        build(ListSource(documents), tmp_path / "notes.txt", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_folder_may_be_there(tmp_path, documents):
    (tmp_path / "data").mkdir()
    build(ListSource(documents), tmp_path / "data", CONFIG).verify()


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], r"a list: no text to build from \(0 documents, all of them empty\)"),
        ([b"", b" \n"], r"a list: no text to build from \(2 documents, all of them empty\)"),
        ([b"one", b"one"], "a list: one distinct document cannot be on both sides of the split; cut the text"),
    ],
)
def test_no_usable_text(tmp_path, documents, message):
    with pytest.raises(DataError, match=message):
        build(ListSource(documents), tmp_path / "data", CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("val_frac", "side", "change"), [(1e-9, "val", "raise"), (1 - 1e-9, "train", "lower")])
def test_a_side_without_documents_says_which_option_to_change(tmp_path, val_frac, side, change):
    config = BuildConfig(vocab_size=400, val_frac=val_frac)
    message = f"^a list: the split leaves none of the 2 documents for '{side}'; {change} --val-frac, or cut the text"
    with pytest.raises(DataError, match=message):
        build(ListSource([b"one", b"two"]), tmp_path / "data", config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("val_frac", [0, 1, -0.1, 5.0, float("nan")])
def test_split_needs_two_sides(val_frac):
    with pytest.raises(DataError, match=r"^val_frac is .*, it must lie between 0 and 1$"):
        BuildConfig(vocab_size=400, val_frac=val_frac)
