import json
import shutil

import numpy as np
import pytest

from nutshell.data import dataset as dataset_module
from nutshell.data.corpus import BuildConfig, build
from nutshell.data.dataset import Dataset, Overlap
from nutshell.data.shards import read_shard, write_shard
from nutshell.errors import DataError
from text_samples import ListSource, chapters, foreign_model, small_tokenizer


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "data"
    return build(ListSource(chapters()), folder, BuildConfig(vocab_size=512, val_frac=0.3, shard_tokens=50_000))


@pytest.fixture
def folder(built, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(built.folder, tmp_path / "data")


@pytest.fixture
def published(folder):
    """The same tokens as someone else would publish them."""
    (folder / "manifest.json").unlink()
    (folder / "tokenizer.model").rename(folder / "fineweb_512_bpe.model")
    for path in folder.glob("*.bin"):
        path.rename(folder / path.name.replace("nutshell", "fineweb"))
    return folder


def edit_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_open_gives_the_tokens_of_all_shards(built, folder):
    dataset = Dataset.open(folder)
    dataset.verify()
    assert len(built.manifest.train.shards) == 3
    shards = [read_shard(folder / shard.name) for shard in built.manifest.train.shards]
    assert dataset.train[0 : len(dataset.train)].tolist() == np.concatenate(shards).tolist()
    assert dataset.manifest == built.manifest
    assert dataset.digest == built.digest


def test_validation_documents_are_the_held_out_texts(built):
    decoded = [built.tokenizer.decode(tokens) for tokens in built.val_documents()]
    assert len(decoded) == built.manifest.val.documents
    assert set(decoded) < set(chapters())
    assert sum(map(len, decoded)) == built.val_bytes == built.manifest.val.bytes
    assert built.train_bytes_per_token == built.manifest.train.bytes / len(built.train)


def test_published_export_says_the_same_without_a_manifest(built, published):
    dataset = Dataset.open(published)
    dataset.verify()
    assert dataset.manifest is None
    assert dataset.tokenizer.sha256 == built.tokenizer.sha256
    assert dataset.val_bytes == built.val_bytes
    assert dataset.train_bytes_per_token == built.train_bytes_per_token, "the sample covers this small text"
    assert dataset.digest == built.digest
    found = [tokens.tolist() for tokens in dataset.val_documents()]
    assert found == [tokens.tolist() for tokens in built.val_documents()]


def test_a_text_without_bos_has_no_boundaries(built, published):
    assert Dataset.open(published).val_has_boundaries
    tokens = np.array(read_shard(published / "fineweb_val_000000.bin"))
    write_shard(published / "fineweb_val_000000.bin", tokens[tokens != built.tokenizer.bos_id])
    assert not Dataset.open(published).val_has_boundaries


def test_an_export_has_its_published_bytes_per_token_with_it(folder):
    def fetched_from(name):
        origin = {"repo": "someone/copy", "revision": "0" * 40, "folder": name, "tokenizer": "t.model"}
        edit_manifest(folder, lambda manifest: manifest.update(origin=origin))
        return Dataset.open(folder).published_bytes_per_token

    assert fetched_from("datasets/datasets/fineweb10B_sp8192") == 3.72663
    assert fetched_from("datasets/datasets/fineweb10B_sp4096") is None
    assert fetched_from("elsewhere") is None


def test_digest_follows_the_content(folder):
    before = Dataset.open(folder).digest
    tokens = np.array(read_shard(folder / "nutshell_val_000000.bin"))
    write_shard(folder / "nutshell_val_000000.bin", tokens[::-1])
    (folder / "manifest.json").unlink()
    assert Dataset.open(folder).digest != before


def test_altered_shard_is_found_by_verify(folder):
    path = folder / "nutshell_train_000001.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train_000001\.bin: not what manifest\.json describes; build the data set"):
        Dataset.open(folder).verify()


def test_shard_of_another_length(folder):
    write_shard(folder / "nutshell_train_000001.bin", np.ones(49_999, dtype=np.uint16))
    with pytest.raises(DataError, match=r"train_000001\.bin: not the 50,000 tokens that manifest\.json counts$"):
        Dataset.open(folder)


def test_missing_shard(folder):
    (folder / "nutshell_val_000000.bin").unlink()
    with pytest.raises(DataError, match=r"val_000000\.bin: cannot be read \(No such file or directory\)$"):
        Dataset.open(folder)


def test_another_tokenizer(folder):
    (folder / "tokenizer.model").write_bytes(foreign_model())
    with pytest.raises(DataError, match=r"tokenizer\.model: not the tokenizer that made these shards; put it back$"):
        Dataset.open(folder)


def test_published_shards_of_a_larger_tokenizer(published):
    (published / "fineweb_512_bpe.model").write_bytes(foreign_model())
    with pytest.raises(DataError, match=r"bin: holds token 511, but the tokenizer has only 480; put the tokenizer"):
        Dataset.open(published)


def test_verify_reads_published_shards_to_their_end(published, monkeypatch):
    monkeypatch.setattr("nutshell.data.dataset._SAMPLE_TOKENS", 10)
    path = published / "fineweb_train_000001.bin"
    tokens = np.array(read_shard(path))
    tokens[-1] = 512
    write_shard(path, tokens)
    dataset = Dataset.open(published)
    with pytest.raises(DataError, match=r"train_000001\.bin: holds token 512, but the tokenizer has only 512"):
        dataset.verify()


def test_published_folder_with_parts_missing(published):
    (published / "second.model").write_bytes(small_tokenizer().model_bytes)
    with pytest.raises(DataError, match=r"no manifest\.json, and 2 tokenizers \(\*\.model\) where one is needed$"):
        Dataset.open(published)
    (published / "second.model").unlink()
    for path in published.glob("*_val_*.bin"):
        path.unlink()
    with pytest.raises(DataError, match=r"no shards named \*_val_\*\.bin$"):
        Dataset.open(published)
    (published / "fineweb_512_bpe.model").unlink()
    with pytest.raises(DataError, match=r"no manifest\.json, and 0 tokenizers"):
        Dataset.open(published)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"none: no such folder; build a data set there first$"):
        Dataset.open(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("val"), "not a data set's manifest .*missing required field `val`"),
        (lambda manifest: manifest.update(extra=1), "not a data set's manifest .*unknown field `extra`"),
        (lambda manifest: manifest.update(format="nutshell data 9"), "format 'nutshell data 9', this version reads"),
    ],
)
def test_manifest_is_read_strictly(folder, change, message):
    edit_manifest(folder, change)
    with pytest.raises(DataError, match=r"manifest\.json: " + message):
        Dataset.open(folder)


def test_manifest_cut_short(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"manifest\.json: not a data set's manifest .*; build the data set again$"):
        Dataset.open(folder)


def copy_of(built, published, count):
    """Put the first validation documents into the training text too."""
    tokens = [built.tokenizer.bos_id]
    for document in [*built.val_documents()][:count]:
        tokens += [*document.tolist(), built.tokenizer.bos_id]
    write_shard(published / "fineweb_train_000009.bin", np.array(tokens, dtype=np.uint16))


def test_build_records_that_the_sides_are_apart(built, folder):
    assert built.manifest.overlap == Overlap(documents=0)
    assert not (folder / "overlap.json").exists()


def test_a_validation_document_in_published_training_text_is_refused(built, published):
    copy_of(built, published, 2)
    with pytest.raises(DataError, match=r"data: 2 validation documents are in the training text too, .* \"allowed\""):
        Dataset.open(published).verify()
    found = json.loads((published / "overlap.json").read_bytes())
    assert (found["documents"], found["allowed"]) == (2, False)
    (published / "overlap.json").write_text(json.dumps({**found, "allowed": True}))
    Dataset.open(published).verify()


def test_a_scan_is_remembered_until_the_tokens_change(built, published, monkeypatch):
    scans = []
    real = dataset_module.shared_documents
    monkeypatch.setattr(dataset_module, "shared_documents", lambda *sides: scans.append(1) or real(*sides))
    for _ in range(3):
        Dataset.open(published).verify()
    assert len(scans) == 1
    copy_of(built, published, 1)
    with pytest.raises(DataError, match="1 validation documents are in the training text too"):
        Dataset.open(published).verify()
    (published / "overlap.json").write_text("damaged")
    with pytest.raises(DataError, match="1 validation documents are in the training text too"):
        Dataset.open(published).verify()
    assert len(scans) == 3


def test_a_manifest_of_before_is_scanned(built, folder):
    edit_manifest(folder, lambda manifest: manifest.pop("overlap"))
    Dataset.open(folder).verify()
    assert json.loads((folder / "overlap.json").read_bytes())["digest"] == built.digest


def write_sidecar(folder, counts, name="fineweb_val_bytes_000000.bin"):
    write_shard(folder / name, np.array(counts, dtype=np.uint16))


def test_a_byte_sidecar_counts_the_original_text(built, published):
    before = Dataset.open(published)
    write_sidecar(published, [3] * len(built.val))
    dataset = Dataset.open(published)
    dataset.verify()
    assert dataset.val_bytes == 3 * len(built.val)
    assert len(dataset.val) == len(built.val), "it is no validation shard"
    assert before.val_token_bytes is None
    before.check_scorable()
    with pytest.raises(DataError, match="its text was transformed before it was tokenized, and this version cannot"):
        dataset.check_scorable()
    assert dataset.digest != before.digest, "another text is scored"


def test_a_byte_sidecar_of_another_length(built, published):
    write_sidecar(published, [3] * (len(built.val) - 1))
    with pytest.raises(DataError, match=r"val_bytes_000000\.bin: the byte sidecar counts .* copy both again$"):
        Dataset.open(published)


def test_bytes_are_counted_piece_by_piece(built, published, monkeypatch):
    monkeypatch.setattr("nutshell.data.dataset._SAMPLE_TOKENS", 101)
    assert Dataset.open(published).val_bytes == built.manifest.val.bytes


def test_a_vocabulary_that_is_not_the_tokenizers(folder):
    edit_manifest(folder, lambda manifest: manifest.update(vocab_size=511))
    with pytest.raises(DataError, match=r"manifest\.json: counts 511 tokens in a tokenizer of 512$"):
        Dataset.open(folder)
