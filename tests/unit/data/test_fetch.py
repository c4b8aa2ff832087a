import hashlib
import json
import shutil

import huggingface_hub.file_download
import pytest
from huggingface_hub import constants

from hub_server import HubServer
from nutshell.data.corpus import BuildConfig, build
from nutshell.data.dataset import Dataset
from nutshell.data.exports import EXPORTS, shard_kind
from nutshell.data.fetch import fetch
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import DataError
from published import original_bytes, shard_bytes, small_export, stream
from text_samples import ListSource, chapters, foreign_model, small_tokenizer

REPO, FOLDER, MODEL, _ = EXPORTS["sp1024"]


@pytest.fixture(autouse=True)
def hub(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda _: None)
    with HubServer() as server:
        server.publish(REPO, small_export("sp1024"))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def fetched(out, train_shards=2, **options):
    return fetch("sp1024", out / "data", train_shards=train_shards, **options)


def test_fetched_data_opens_and_says_what_it_is_and_where_from(hub, tmp_path):
    dataset = fetched(tmp_path, train_shards=3)
    opened = Dataset.open(tmp_path / "data")
    opened.verify()
    assert opened.digest == dataset.digest
    train, val = (stream(documents, small_tokenizer()) for documents in (chapters()[3:12], chapters()[:3]))
    assert opened.train[0 : len(opened.train)].tolist() == train
    assert opened.val[0 : len(opened.val)].tolist() == val

    manifest = json.loads((tmp_path / "data" / "manifest.json").read_bytes())
    assert manifest["origin"] == {
        "repo": REPO, "revision": hub.commits[REPO], "folder": FOLDER, "tokenizer": MODEL
    }  # fmt: skip
    assert manifest["overlap"] == {"documents": 0, "allowed": False}
    assert manifest["vocab_size"] == 512
    assert "ODC-By" in manifest["licence"]
    assert (manifest["train"]["documents"], manifest["val"]["documents"]) == (9, 3)
    assert manifest["train"]["bytes"] == sum(map(len, chapters()[3:12]))
    assert manifest["val"]["bytes"] == sum(map(len, chapters()[:3])) == opened.val_bytes
    for shard in manifest["train"]["shards"]:
        content = hub.repos[REPO][f"{FOLDER}/{shard['name']}"]
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert (tmp_path / "data" / shard["name"]).read_bytes() == content
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert names == {"manifest.json", "fineweb_1024_bpe.model", "fineweb_val_000000.bin"} | {
        f"fineweb_train_00000{index}.bin" for index in range(3)
    }


def test_only_what_is_asked_for_is_downloaded_and_no_token_is_sent(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_nobodys")
    told = []
    fetched(tmp_path, train_shards=1, progress=lambda done, total: told.append((done, total)))
    assert {name for name, _ in hub.downloads()} == {
        "fineweb_1024_bpe.model", "fineweb_val_000000.bin", "fineweb_train_000000.bin"
    }  # fmt: skip
    assert {request.authorization for request in hub.asked} == {None}
    total = sum(path.stat().st_size for path in (tmp_path / "data").iterdir() if path.suffix != ".json")
    assert told[0] == (0, total)
    assert told[-1] == (total, total)


def test_more_shards_are_added_to_what_is_there(hub, tmp_path):
    few = fetched(tmp_path, train_shards=1)
    hub.asked.clear()
    more = fetched(tmp_path, train_shards=3)
    assert [name for name, _ in hub.downloads()] == ["fineweb_train_000001.bin", "fineweb_train_000002.bin"]
    assert len(more.train) > len(few.train)
    hub.asked.clear()
    assert fetched(tmp_path, train_shards=3).digest == more.digest
    assert hub.downloads() == []


def test_a_file_that_was_damaged_on_the_disk_is_brought_again(hub, tmp_path):
    fetched(tmp_path)
    path = tmp_path / "data" / "fineweb_train_000001.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    hub.asked.clear()
    fetched(tmp_path).verify()
    assert [name for name, _ in hub.downloads()] == ["fineweb_train_000001.bin"]


class Once(dict):
    """What is got is gone."""

    def get(self, key):
        return self.pop(key, None)


def test_a_connection_that_breaks_once_is_taken_up_at_once(hub, tmp_path):
    hub.cut_after = Once({"fineweb_train_000000.bin": 5000})
    fetched(tmp_path).verify()
    ranges = [asked for name, asked in hub.downloads() if name == "fineweb_train_000000.bin"]
    assert ranges == [None, "bytes=5000-"]


def test_the_next_command_goes_on_where_a_download_broke_off(hub, tmp_path):
    hub.cut_after["fineweb_train_000001.bin"] = 7000
    with pytest.raises(DataError, match="broke off"):
        fetched(tmp_path)
    [part] = (tmp_path / "data").glob(".*.part")
    assert part.stat().st_size == 7000
    assert not (tmp_path / "data" / "fineweb_train_000001.bin").exists()
    assert not (tmp_path / "data" / "manifest.json").exists()
    hub.cut_after.clear()
    hub.asked.clear()
    fetched(tmp_path).verify()
    assert hub.downloads() == [("fineweb_train_000001.bin", "bytes=7000-")]
    assert not list((tmp_path / "data").glob(".*.part"))


@pytest.mark.parametrize("cuts", [{}, {"fineweb_train_000001.bin": 9000}])
def test_a_server_that_knows_no_ranges_sends_the_file_anew(hub, tmp_path, cuts):
    hub.cut_after["fineweb_train_000001.bin"] = 7000
    with pytest.raises(DataError, match="broke off"):
        fetched(tmp_path)
    hub.cut_after, hub.whole = Once(cuts), {"fineweb_train_000001.bin"}
    hub.asked.clear()
    fetched(tmp_path).verify()
    ranges = ["bytes=7000-", *(f"bytes={stop}-" for stop in cuts.values())]
    assert hub.downloads() == [("fineweb_train_000001.bin", asked) for asked in ranges]
    content = hub.repos[REPO][f"{FOLDER}/fineweb_train_000001.bin"]
    assert (tmp_path / "data" / "fineweb_train_000001.bin").read_bytes() == content


def test_bytes_of_another_content_are_not_gone_on_with(hub, tmp_path):
    hub.cut_after["fineweb_train_000001.bin"] = 7000
    with pytest.raises(DataError, match="broke off"):
        fetched(tmp_path)
    files = dict(hub.repos[REPO])
    path = f"{FOLDER}/fineweb_train_000001.bin"
    files[path] = files[path][:-2] + files[path][-4:-2]
    hub.publish(REPO, files)
    hub.cut_after.clear()
    hub.asked.clear()
    fetched(tmp_path).verify()
    assert hub.downloads() == [("fineweb_train_000001.bin", None)]
    assert (tmp_path / "data" / "fineweb_train_000001.bin").read_bytes() == files[path]
    assert not list((tmp_path / "data").glob(".*.part"))


def test_a_file_of_the_same_name_is_not_written_over(hub, tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "fineweb_train_000000.bin"
    path.write_bytes(b"somebody's own")
    with pytest.raises(DataError, match=r"train_000000\.bin: is not the export's file; delete it, or choose another"):
        fetched(tmp_path)
    assert path.read_bytes() == b"somebody's own"
    assert hub.downloads() == []


@pytest.mark.parametrize("name", ["fineweb_train_000000.bin", "fineweb_1024_bpe.model"])
def test_what_arrives_with_another_checksum_is_deleted(hub, tmp_path, name):
    hub.garbled.add(name)
    with pytest.raises(DataError, match=rf"{name}: what arrived is not what the hub lists \(its checksum differs\)"):
        fetched(tmp_path)
    assert not list((tmp_path / "data").glob(f"*{name}*"))
    hub.garbled.clear()
    fetched(tmp_path).verify()


def test_a_small_file_is_checked_by_its_name_in_git(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("hub_server.LARGE_BYTES", 1 << 20)
    fetched(tmp_path)
    hub.garbled.add("fineweb_val_000000.bin")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match=r"val_000000\.bin: what arrived is not what the hub lists"):
        fetched(tmp_path)


def test_too_little_space_is_said_before_anything_arrives(hub, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=64_000_000 + 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"data: .* kB are to come, and only 64 MB are free; lower --train-shards"):
        fetched(tmp_path)
    assert hub.downloads() == []


def test_what_is_there_needs_no_space(hub, tmp_path, monkeypatch):
    fetched(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    fetched(tmp_path)


def test_a_validation_document_in_the_training_text(hub, tmp_path):
    hub.publish(REPO, small_export("sp1024", train=[*chapters()[3:6], chapters()[1], *chapters()[6:9]]))
    with pytest.raises(DataError, match=r"1 validation documents are in the training text too.*--allow-shared"):
        fetched(tmp_path, train_shards=3)
    with pytest.raises(DataError, match="fetch again with --allow-shared"):
        Dataset.open(tmp_path / "data").verify()
    hub.asked.clear()
    fetched(tmp_path, train_shards=3, allow_shared=True)
    assert hub.downloads() == [], "accepting costs no second download"
    opened = Dataset.open(tmp_path / "data")
    opened.verify()
    assert (opened.overlap.documents, opened.overlap.allowed) == (1, True)


def test_a_tokenizer_of_other_shards(hub, tmp_path):
    files = small_export("sp1024")
    files[MODEL] = foreign_model()
    hub.publish(REPO, files)
    with pytest.raises(DataError, match=r"bin: holds token 5\d\d, but the tokenizer has only 480"):
        fetched(tmp_path)
    assert not (tmp_path / "data" / "manifest.json").exists()


def test_bytes_are_those_of_the_text_where_a_model_adds_spaces(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("nutshell.data.dataset._SAMPLE_TOKENS", 3)  # some document's first token begins a piece
    hub.publish(REPO, small_export("sp1024", tokenizer=Tokenizer(foreign_model())))
    manifest = fetched(tmp_path, train_shards=3).manifest
    assert manifest is not None
    assert manifest.val.bytes == sum(map(len, chapters()[:3]))
    assert manifest.train.bytes == sum(map(len, chapters()[3:12]))


def test_caseops_brings_its_byte_sidecar(hub, tmp_path):
    hub.publish(EXPORTS["caseops"].repo, small_export("caseops"))
    fetch("caseops", tmp_path / "data", train_shards=1)
    dataset = Dataset.open(tmp_path / "data")
    dataset.verify()
    tokens = stream(chapters()[:3], small_tokenizer())
    expected = original_bytes(tokens, small_tokenizer())
    assert dataset.val_token_bytes is not None
    assert dataset.val_token_bytes[0 : len(tokens)].tolist() == expected
    assert dataset.val_bytes == sum(expected) != sum(map(len, chapters()[:3]))
    assert len(dataset.val) == len(tokens), "the sidecar is no second validation shard"


def test_a_sidecar_of_other_tokens(hub, tmp_path):
    files = small_export("caseops")
    files[f"{EXPORTS['caseops'].folder}/fineweb_val_bytes_000000.bin"] = shard_bytes([1] * 2000)
    hub.publish(EXPORTS["caseops"].repo, files)
    with pytest.raises(DataError, match=r"val_bytes_000000\.bin: the byte sidecar counts 2,000 tokens, the validation"):
        fetch("caseops", tmp_path / "data", train_shards=1)


def test_a_copy_of_the_repository(hub, tmp_path):
    hub.publish("someone/copy", small_export("sp1024"))
    dataset = fetched(tmp_path, repo="someone/copy", revision=hub.commits["someone/copy"])
    assert dataset.manifest is not None
    assert dataset.manifest.origin is not None
    assert dataset.manifest.origin.repo == "someone/copy"


def without(part):
    return {path: content for path, content in small_export("sp1024").items() if part not in path}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_shards": 0}, r"^--train-shards 0: at least 1 is needed to train$"),
        ({"train_shards": 4}, r"has 3 training shards in .*sp1024, 4 are asked for; lower --train-shards$"),
        ({"repo": "no/such"}, r"^no/such: no such data set repository on the hub, or a private one$"),
        ({"repo": "shy/one"}, r"^shy/one: its owner asks for an account first"),
        ({"repo": "not a name"}, r"^not a name: no repository's name, which is OWNER/NAME$"),
        ({"revision": "other"}, r"parameter-golf: has no revision 'other'$"),
    ],
)
def test_what_cannot_be_fetched(hub, tmp_path, options, message):
    hub.refused.add("shy/one")
    with pytest.raises(DataError, match=message):
        fetched(tmp_path, **options)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("_train_", "holds no train shards in datasets/datasets/fineweb10B_sp1024 at"),
        ("_val_", "holds no val shards in"),
        (".model", r"holds no datasets/tokenizers/fineweb_1024_bpe\.model at"),
    ],
)
def test_repositories_with_parts_missing(hub, tmp_path, part, message):
    hub.publish(REPO, without(part))
    with pytest.raises(DataError, match=message):
        fetched(tmp_path)


def test_an_export_that_nobody_knows(tmp_path):
    with pytest.raises(DataError, match=r"^no export 'sp1'; there are sp1024, sp4096, sp8192, caseops$"):
        fetch("sp1", tmp_path / "data", train_shards=1)


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"parameter-golf: the hub cannot be asked \(.*\); check the network$"):
        fetched(tmp_path)


def test_folders_in_the_way(hub, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError, match=r"data: is no folder; choose another --out$"):
        fetched(tmp_path)
    (tmp_path / "data").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"data: holds 'thesis\.tex', which is no part of the export"):
        fetched(tmp_path)
    shutil.rmtree(tmp_path / "data")
    build(ListSource(chapters()), tmp_path / "data", BuildConfig(vocab_size=512, val_frac=0.3))
    with pytest.raises(DataError, match=r"data: holds a data set that was built here; choose another --out$"):
        fetched(tmp_path)


def test_another_commit_is_not_mixed_in(hub, tmp_path):
    fetched(tmp_path)
    first = hub.commits[REPO]
    hub.publish(REPO, small_export("sp1024", train=chapters()[4:13]))
    with pytest.raises(
        DataError, match=rf"at {first[:12]}, which is not what is asked for .*--revision {first} to add"
    ):
        fetched(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fineweb_train_000012.bin", "train"),
        ("fineweb_val_000000.bin", "val"),
        ("fineweb_val_bytes_000000.bin", "val_bytes"),
        ("fineweb_val_000000.bin.tmp", None),
        ("manifest.json", None),
    ],
)
def test_shards_are_known_by_their_names(name, kind):
    assert shard_kind(name) == kind
