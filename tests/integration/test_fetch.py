"""`nutshell data fetch` as a user types it, against a hub on loopback: killed and run again, then trained on."""

import json
import os
import signal
import subprocess
import sys

import pytest

from hub_server import HubServer
from nutshell.data.exports import EXPORTS
from published import small_export

REPO = EXPORTS["sp1024"].repo
RECIPE = """
about = "a test"
[model]
vocab_size = 512
model_dim = 16
attention = { num_heads = 2, num_kv_heads = 1 }
mlp = { kind = "relu2", mlp_dim = 16 }
depth = { schedule = "0-1" }
[train]
batch_size = 2
seq_len = 16
compile = "never"
budget = { steps = 3 }
loader = { kind = "shuffled" }
[pack]
budget_bytes = 60_000
rules = [{ kind = "rtn", roles = ["matrix", "embedding"] }]
[score]
stride = 16
"""
WITHOUT_THE_CLIENT = "import sys; sys.modules['huggingface_hub'] = None; from nutshell.cli import main; main()"


@pytest.fixture
def hub():
    with HubServer() as server:
        server.publish(REPO, small_export("sp1024"))
        yield server


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def start(hub, tmp_path):
    """Start a command; its hub is the one on loopback."""
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}

    def starting(*arguments, program=("-m", "nutshell")):
        return subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, **environment, "HF_ENDPOINT": hub.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return starting


def ended(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.splitlines()


def fails(process, part, status=1):
    found, _, err = ended(process)
    assert found == status, err
    assert part in err[-1]
    assert err[-1].startswith("nutshell: ")
    assert not any("Traceback" in line for line in err)


def test_a_fetch_that_is_killed_goes_on_and_what_it_made_trains(hub, start, recipe, tmp_path):
    hub.stall_after["fineweb_train_000001.bin"] = 10_000
    process = start("data", "fetch", "sp1024", "--train-shards", 2, "--out", "data")
    assert hub.stalled.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    hub.stall_after.clear()
    hub.release.set()
    hub.asked.clear()

    status, out, err = ended(start("data", "fetch", "sp1024", "--train-shards", 2, "--out", "data", "--json"))
    assert status == 0, err
    assert [name for name, _ in hub.downloads()] == ["fineweb_train_000001.bin"], "what was whole is kept"
    manifest = json.loads(out)
    assert manifest["origin"]["revision"] == hub.commits[REPO]
    assert len(manifest["train"]["shards"]) == 2

    status, out, err = ended(start("train", recipe, "--data", "data", "--out", "run", "--json"))
    assert status == 0, err
    receipt = json.loads(out)
    assert receipt["steps"] == 3
    assert list(receipt["skipped"]) == ["16"]
    assert 0 < receipt["skipped"]["16"] < 0.01

    path = tmp_path / "data" / "fineweb_train_000000.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    fails(start("train", recipe, "--data", "data", "--out", "other"), "manifest.json describes; fetch the data set")
    assert not (tmp_path / "home").exists(), "nothing is kept elsewhere"


def test_caseops_trains_and_is_not_scored_as_if_it_were_plain_text(hub, start, recipe):
    hub.publish(EXPORTS["caseops"].repo, small_export("caseops"))
    status, out, err = ended(start("data", "fetch", "caseops", "--train-shards", 1, "--out", "data"))
    assert status == 0, err
    assert [line.split()[0] for line in out.splitlines() if line.strip()][-2:] == ["train", "val"]
    fails(start("run", recipe, "--data", "data", "--out", "run"), "this version cannot score by the byte sidecar")
    status, _, err = ended(start("train", recipe, "--data", "data", "--out", "run"))
    assert status == 0, "\n".join(err)


def test_what_goes_wrong_is_one_line(hub, start, tmp_path):
    hub.cut_after["fineweb_val_000000.bin"] = 1000
    fails(start("data", "fetch", "sp99", "--out", "data"), "no export 'sp99'; there are sp1024, sp4096")
    fails(start("data", "fetch", "sp1024", "--out", "data"), "has 3 training shards")
    fails(start("data", "fetch", "sp1024"), "--out", status=2)
    fails(start("data", "fetch", "sp4096", "--out", "data"), "kevclark/parameter-golf: no such data set repository")
    (tmp_path / "file").touch()
    fails(start("data", "fetch", "sp1024", "--train-shards", 1, "--out", "file/data"), "Not a directory")


def test_training_on_a_validation_document_is_refused(hub, start, recipe):
    documents = [b"a document of its own, number %d, that is nowhere else" % number for number in range(40)]
    hub.publish(REPO, small_export("sp1024", train=documents, val=documents[7:9]))
    fetch = ["data", "fetch", "sp1024", "--train-shards", 3, "--out", "data"]
    fails(start(*fetch), "2 validation documents are in the training text too")
    train = ["train", recipe, "--data", "data", "--out", "run"]
    fails(start(*train), "2 validation documents are in the training text too")
    for command in ((*fetch, "--allow-shared"), train):
        status, _, err = ended(start(*command))
        assert status == 0, "\n".join(err)


def test_without_the_client_the_other_verbs_work(start, tmp_path):
    (tmp_path / "text.txt").write_text("a text\n" * 100)
    program = ("-c", WITHOUT_THE_CLIENT)
    fails(
        start("data", "fetch", "sp1024", "--out", "data", program=program),
        "data fetch needs huggingface_hub, which is not here: pip install 'nutshell-lm[hub]'",
        status=2,
    )
    status, out, _ = ended(start("data", "--help", program=program))
    assert status == 0
    assert "fetch" in out
    fails(start("data", "build", "none.txt", "--vocab", 300, "--out", "data", program=program), "no such file")
