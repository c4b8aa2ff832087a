import json

import numpy as np
import pytest

from nutshell.data.corpus import BuildConfig, build
from nutshell.data.dataset import Dataset
from nutshell.data.shards import read_shard, write_shard
from nutshell.data.verify import verify
from nutshell.files import sha256_file
from text_samples import ListSource, chapters

NAMES = [
    "shard headers",
    "hashes",
    "tokens",
    "documents",
    "bytes",
    "tokenizer round trip",
    "split",
    "split, normalised",
]


@pytest.fixture
def folder(tmp_path):
    build(ListSource(chapters()), tmp_path / "data", BuildConfig(vocab_size=512, val_frac=0.3, shard_tokens=50_000))
    return tmp_path / "data"


def verdicts(folder):
    return {check.name: check.verdict for check in verify(Dataset.open(folder))}


def evidence(folder, name):
    return next(check.evidence for check in verify(Dataset.open(folder)) if check.name == name)


def plant(folder, document):
    """Append a document to the training text, and have the manifest agree with it."""
    dataset = Dataset.open(folder)
    entry = dataset.manifest.train.shards[-1]
    tokens = np.concatenate([read_shard(folder / entry.name), [dataset.tokenizer.bos_id], document]).astype(np.uint16)
    write_shard(folder / entry.name, tokens)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    side = manifest["train"]
    side["shards"][-1] |= {"tokens": len(tokens), "sha256": sha256_file(folder / entry.name)}
    side["documents"] += 1
    side["bytes"] += len(dataset.tokenizer.decode(document))
    side["tokens"] += len(document) + 1
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_data_set_as_it_was_built_passes_every_check(folder):
    told = []
    found = verify(Dataset.open(folder), progress=lambda done, total: told.append((done, total)))
    assert [check.name for check in found] == NAMES
    assert {check.verdict for check in found} == {"passed"}, found
    assert told[0] == (0, 7)
    assert told[-1] == (7, 7)


def test_without_a_manifest_nobody_can_tell_what_the_shards_should_be(folder):
    (folder / "manifest.json").unlink()
    found = verdicts(folder)
    assert {name for name, verdict in found.items() if verdict == "cannot tell"} == {"hashes", "documents", "bytes"}
    assert "failed" not in found.values()


def test_a_leak_is_found(folder):
    dataset = Dataset.open(folder)
    leaked = list(dataset.val_documents())[2]
    plant(folder, leaked)
    found = verdicts(folder)
    assert {name for name, verdict in found.items() if verdict == "failed"} == {"split", "split, normalised"}
    assert "number 2 is number" in evidence(folder, "split")


def test_a_leak_that_was_made_to_look_otherwise_is_found(folder):
    dataset = Dataset.open(folder)
    text = dataset.tokenizer.decode(list(dataset.val_documents())[1]).decode()
    disguised = "  ".join(text.upper().split(" ")) + "\n"
    plant(folder, dataset.tokenizer.encode(disguised.encode()))
    found = verdicts(folder)
    assert found["split"] == "passed"
    assert found["split, normalised"] == "failed"
    assert "number 1 is number" in evidence(folder, "split, normalised")


def test_an_altered_shard_and_wrong_counts_are_found(folder):
    path = folder / "nutshell_val_000000.bin"
    tokens = np.array(read_shard(path))
    tokens[-1] = (tokens[-1] + 1) % 300
    write_shard(path, tokens)
    assert verdicts(folder)["hashes"] == "failed"
    assert path.name in evidence(folder, "hashes")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["val"]["bytes"] += 1
    manifest["train"]["documents"] -= 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = verdicts(folder)
    assert (found["bytes"], found["documents"]) == ("failed", "failed")


def test_a_text_without_boundaries_is_found(folder):
    (folder / "manifest.json").unlink()
    dataset = Dataset.open(folder)
    tokens = np.array(read_shard(folder / "nutshell_val_000000.bin"))
    write_shard(folder / "nutshell_val_000000.bin", tokens[tokens != dataset.tokenizer.bos_id])
    assert verdicts(folder)["documents"] == "failed"


def test_a_tokenizer_that_loses_bytes_is_found(folder, monkeypatch):
    dataset = Dataset.open(folder)
    encode = dataset.tokenizer.encode
    monkeypatch.setattr(dataset.tokenizer, "encode", lambda text: encode(text.replace(b"e", b"")))
    (check,) = (check for check in verify(dataset) if check.name == "tokenizer round trip")
    assert check.verdict == "failed"
