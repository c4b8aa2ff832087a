"""Bad input, through the command as a user types it: one clear line, a status, nothing lost."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from nutshell import cli
from nutshell.data.dataset import Dataset
from nutshell.files import read_json, sha256_file, write_json
from nutshell.pipeline import store
from nutshell.pipeline.training import MetricsLog
from nutshell.train import compute

EXAMPLES = Path(__file__).parents[2] / "examples"

SMALL = """
about = "a test"
[model]
vocab_size = 300
model_dim = 16
attention = { num_heads = 2, num_kv_heads = 1 }
mlp = { kind = "relu2", mlp_dim = 16 }
depth = { schedule = "0-1" }
[train]
batch_size = 2
seq_len = 16
compile = "never"
budget = { steps = 3 }
[pack]
budget_bytes = 30_000
rules = [{ kind = "rtn", roles = ["matrix", "embedding"] }]
[score]
stride = 16
"""


@pytest.fixture
def run(monkeypatch, capsys):
    """Type a command; give status, stdout and the lines of stderr."""
    monkeypatch.setenv("COLUMNS", "160")  # a table's heads break where the terminal of whoever tests is narrow

    def typed(*arguments):
        monkeypatch.setattr(sys, "argv", ["nutshell", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as done:
            status = done.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return typed


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A small data set, built once."""
    folder = tmp_path_factory.mktemp("cli")
    lines = [json.dumps({"text": f"number {n} and then {n * n} with {n % 7} more words to count"}) for n in range(400)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "nutshell", "data", "build", "text.jsonl", "--vocab", "300", "--out", "data"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def trained(run, recipe, data, tmp_path):
    out = tmp_path / "out"
    assert run("train", recipe, "--data", data, "--out", out)[0] == 0
    assert run("pack", out)[0] == 0
    return out


def fails(outcome, part, status=1):
    assert outcome[0] == status, outcome
    assert outcome[2], "no message"
    assert outcome[2][-1].startswith("nutshell: "), outcome[2]
    assert part in outcome[2][-1]
    assert not any("Traceback" in line for line in outcome[2])


def test_usage(run):
    fails(run("trainx"), "Unknown command", status=2)
    fails(run("train"), "", status=2)
    fails(run("train", "demo", "--data", "x", "--seed", "many"), "seed", status=2)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_is_a_number_that_all_generators_take(run, seed):
    for verb in (("train", "demo", "--data", "x"), ("run", "demo", "--data", "x"), ("demo",), ("sample", "x")):
        fails(run(*verb, f"--seed={seed}"), f'Invalid value "{seed}" for --seed', status=2)


def test_a_message_cannot_command_the_terminal(run):
    status, _, err = run("describe", "no\x1b[2Jsuch\x9b")
    assert status == 1
    assert err[0].startswith("nutshell: no recipe 'no\N{REPLACEMENT CHARACTER}[2Jsuch\N{REPLACEMENT CHARACTER}'")


def test_recipes(run, recipe, tmp_path):
    fails(run("describe", "nosuch"), "no recipe 'nosuch'; 'nutshell recipes' lists those installed")
    fails(run("describe", tmp_path / "none.toml"), "cannot read the recipe (No such file or directory)")
    recipe.write_text(SMALL.replace("vocab_size", "vocab_siz"))
    fails(run("describe", recipe), f"{recipe}: unknown key 'model.vocab_siz'; did you mean 'vocab_size'?")
    recipe.write_text(SMALL.replace("num_heads = 2", "num_heads = 3"))
    fails(run("describe", recipe), "model_dim 16 is no multiple of num_heads 3")
    recipe.write_text(SMALL.replace('depth = { schedule = "0-1" }', 'depth = { schedule = "0-1 5" }'))
    fails(run("describe", recipe), "without a gap")
    fails(run("describe", "demo", "--set", "model.nosuch=3"), "unknown key 'model.nosuch'")


def test_describe_json_has_what_is_promised(run):
    status, out, _ = run("describe", "demo", "--json")
    description = json.loads(out)
    assert status == 0
    assert {"num_params", "virtual_layers", "skips", "predicted_artifact_bytes"} <= description.keys()
    assert {"index", "block", "iteration"} <= description["virtual_layers"][0].keys()


def test_describe_draws_the_model_into_a_file(run, tmp_path):
    picture = tmp_path / "demo.svg"
    status, out, err = run("describe", "demo", "--diagram", picture)
    assert (status, err) == (0, [f"diagram: {picture}"])
    assert "virtual layers" in out
    root = ElementTree.parse(picture).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("aria-label") == (
        "3 blocks run as 4 virtual layers, in the order 0 1 1 2; skips between virtual layers 0 to 3."
    )
    status, out, err = run("describe", "demo", "--diagram", picture, "--json")
    assert (status, err, json.loads(out)["name"]) == (0, [], "demo")
    assert list(tmp_path.iterdir()) == [picture]


def test_a_diagram_that_cannot_be_drawn_leaves_no_file(run, tmp_path):
    for name in ("demo.png", "demo", "demo.svg.txt"):
        fails(run("describe", "demo", "--diagram", tmp_path / name), "give a name that ends in .svg", status=2)
    fails(run("describe", "demo", "--diagram", tmp_path / "none" / "demo.svg"), "No such file or directory")
    fails(run("describe", "nosuch", "--diagram", tmp_path / "demo.svg"), "no recipe 'nosuch'")
    assert list(tmp_path.iterdir()) == []


def test_describe_compares_two_recipes(run, recipe):
    other = recipe.with_name("other.toml")
    other.write_text(SMALL.replace("mlp_dim = 16", "mlp_dim = 32"))
    status, out, err = run("describe", recipe, "--against", other, "--json")
    comparison = json.loads(out)
    assert (status, err) == (0, [])
    assert (comparison["a"]["name"], comparison["b"]["name"]) == ("small", "other")
    assert comparison["differences"] == [{"path": "model.mlp.mlp_dim", "a": 16, "b": 32}]
    assert comparison["equal_time"]["b"]["relative"]["steps"] < 1
    status, out, _ = run("describe", recipe, "--against", recipe, "--set", "optim.matrix_lr=0.5", "--step-ms", 2, 3)
    assert status == 0
    assert [line.split() for line in out.splitlines() if line.startswith("optim")] == [
        ["optim.matrix_lr", "0.5", "0.02"]
    ]
    assert "assumed: a step takes 2 ms and 3 ms a virtual layer" in out


def test_a_comparison_asked_for_wrongly(run, recipe, tmp_path):
    fails(run("describe", recipe, "--against", "nosuch"), "no recipe 'nosuch'")
    compared = ("describe", recipe, "--against", recipe)
    fails(run(*compared, "--diagram", tmp_path / "two.svg"), "--diagram draws one recipe", status=2)
    fails(run(*compared, "--step-ms", 1, 2, "--overhead", 0.1), "drop one", status=2)
    fails(run(*compared, "--step-ms", 1), "--step-ms", status=2)
    fails(run(*compared, "--step-ms", -1, 2), "give times", status=2)
    fails(run(*compared, "--overhead", 1), "give a part of a step", status=2)
    fails(run("describe", recipe, "--step-ms", 1, 2), "--step-ms is for a comparison", status=2)
    fails(run("describe", recipe, "--overhead", 0), "--overhead is for a comparison", status=2)


def test_data(run, tmp_path):
    fails(run("data", "build", tmp_path / "none.txt", "--vocab", 300, "--out", tmp_path / "d"), "none.txt")
    (tmp_path / "empty.txt").write_text("")
    fails(run("data", "build", tmp_path / "empty.txt", "--vocab", 300, "--out", tmp_path / "d"), "no text")
    assert not (tmp_path / "d").exists()


def test_training_refuses_data_that_does_not_fit(run, recipe, data, tmp_path):
    fails(run("train", recipe, "--data", tmp_path / "nowhere", "--out", tmp_path / "o"), "no such folder")
    recipe.write_text(SMALL.replace("vocab_size = 300", "vocab_size = 301"))
    fails(run("train", recipe, "--data", data, "--out", tmp_path / "o"), "its tokenizer has 300 tokens, the recipe 301")
    recipe.write_text(SMALL.replace("vocab_size = 300", "vocab_size = 300\nbos_id = 2"))
    fails(run("train", recipe, "--data", data, "--out", tmp_path / "o"), "BOS is token 1, the recipe's 2; set model.")
    recipe.write_text(SMALL.replace("seq_len = 16", "seq_len = 1000000"))
    fails(run("train", recipe, "--data", data, "--out", tmp_path / "o"), "too few for one window")


def test_a_directory_of_another_run_is_not_overwritten(run, recipe, data, trained):
    weights = (trained / "weights.safetensors").read_bytes()
    fails(run("train", recipe, "--data", data, "--out", trained, "--seed", 9), "holds another run (its seed differs)")
    assert (trained / "weights.safetensors").read_bytes() == weights
    status, _, err = run("train", recipe, "--data", data, "--out", trained)
    assert status == 0
    assert "done before" in err[0]


def test_resume_needs_a_checkpoint(run, recipe, data, tmp_path):
    fails(run("train", recipe, "--data", data, "--out", tmp_path / "o", "--resume"), "there is no such file")


def test_stages_out_of_order(run, tmp_path):
    fails(run("pack", tmp_path), "run.json: there is no such file; train the run first")
    fails(run("score", tmp_path / "x.nut", "--data", tmp_path), "cannot read the artifact (No such file or directory)")
    fails(run("report", tmp_path), "summary.json")


def test_weights_that_are_not_the_receipts(run, trained):
    path = trained / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    fails(run("pack", trained), "not the weights that run.json names")
    path.write_bytes(content[: len(content) // 2])
    fails(run("pack", trained), "damaged or not a safetensors file")


def test_a_damaged_artifact(run, trained, data):
    path = trained / "model.nut"
    content = path.read_bytes()
    for damaged in (content[:-10], content[:50], b"", b"hello" * 100):
        path.write_bytes(damaged)
        fails(run("score", path, "--data", data), str(path))
    altered = bytearray(content)
    altered[len(content) // 2] ^= 4
    path.write_bytes(altered)
    fails(run("score", path, "--data", data), "damaged: its checksum does not match")
    fails(run("sample", path), "damaged: its checksum does not match")


def test_shards_of_another_tokenizer(run, trained, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": f"other {n} text {n}"}) for n in range(300)))
    other = tmp_path / "other"
    assert run("data", "build", tmp_path / "t.jsonl", "--vocab", 300, "--out", other)[0] == 0
    fails(run("score", trained / "model.nut", "--data", other), "not of the artifact's tokenizer")


def test_scores_are_checked_before_they_are_proved(run, trained, data, tmp_path):
    artifact, claim_path = trained / "model.nut", tmp_path / "score.json"
    prove = ("prove", artifact, "--data", data, "--claim", claim_path, "--docs", 20)
    assert run("score", artifact, "--data", data, "--out", claim_path)[0] == 0
    claim = read_json(claim_path)
    assert run(*prove)[0] == 0
    lowered = [nats * 0.9 for nats in claim["document_nats"]]
    claim_path.write_text(json.dumps(claim | {"document_nats": lowered}))
    fails(run(*prove, "--out", tmp_path / "p"), "the score is not proved")
    assert not read_json(tmp_path / "p.json")["ok"]
    claim_path.write_text(json.dumps(claim | {"artifact_sha256": "0" * 64}))
    fails(run(*prove), "the score to prove is that of another artifact")


def test_a_probe_of_an_artifact(run, trained, data):
    probe = ("probe", trained / "model.nut", "--data", data)
    reading = json.loads(run(*probe, "--json")[1])
    assert (reading["schedule"], reading["trained_schedule"]) == ("0-1", "0-1")
    assert reading["artifact_sha256"] == sha256_file(trained / "model.nut")
    assert [visit["block"] for visit in reading["visits"]] == [0, 1]
    assert reading["tokens"] % 16 == 0
    assert reading["loss"] > 0
    assert reading["visits"][0]["jacobian_norm"] is None
    options = ("--schedule", LONGER, "--jacobian-steps", 3)
    longer = json.loads(run(*probe, *options, "--json")[1])
    assert [visit["iteration"] for visit in longer["visits"]] == [0, 0, 1, 2]
    assert [visit["cosine"] is None for visit in longer["visits"]] == [True, True, False, False]
    assert all(visit["jacobian_norm"] > 0 for visit in longer["visits"])
    status, out, _ = run(*probe, *options)
    assert status == 0
    assert f"{LONGER}, trained as 0-1" in out
    for column in ("stream RMS", "stretch", "attention gain", "spectral norms", "parameters of"):
        assert column in out
    assert "stretch" not in run(*probe)[1]


def test_a_probe_of_early_stops_and_of_what_packing_changed(run, trained, data):
    weights = trained / "weights.safetensors"
    probe = ("probe", trained / "model.nut", "--data", data, "--schedule", LONGER, "--weights", weights)
    options = ("--early-stop", 0.01, "--early-stop", 0.5)
    found = json.loads(run(*probe, *options, "--json")[1])
    (loop,) = found["early_stop"]
    assert [row["schedule"] for row in loop["passes"]] == ["0-1", "0 (1)x2", LONGER]  # once is what was trained
    assert loop["passes"][-1]["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert [row["eps"] for row in loop["stops"]] == [0.01, 0.5]
    moved = found["quantization"]
    assert moved["weights_sha256"] == sha256_file(weights)
    assert moved["packed_loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert [row["number"] for row in moved["passes"]] == [1, 2, 3]
    assert all(0 < visit["error"] < 1 for visit in moved["visits"])
    _, out, _ = run(*probe, *options)
    for words in ("quantization, visit", "quantization, pass", "(1)x3, passes", "(1)x3, stop below"):
        assert words in out
    plain = json.loads(run(*probe[:4], "--json")[1])
    assert (plain["early_stop"], plain["quantization"]) == (None, None)


def test_a_probe_that_cannot_be_made(run, trained, data, tmp_path):
    probe = ("probe", trained / "model.nut", "--data", data)
    fails(run(*probe, "--schedule", "0-2"), "schedule '0-2' runs 3 blocks, the artifact has 2")
    fails(run(*probe, "--jacobian-steps", -1), "--jacobian-steps -1 must not be negative", status=2)
    fails(run(*probe, "--early-stop", 0), "--early-stop 0 must be positive", status=2)
    fails(run(*probe, "--early-stop", "nan"), "--early-stop nan must be positive", status=2)
    fails(run(*probe, "--early-stop", 0.1), "'0-1' has no loop; give --schedule with one", status=2)
    fails(run(*probe, "--weights", tmp_path / "none"), "there is no such file")
    save_file({"embedding": torch.zeros(3, 4)}, tmp_path / "other.safetensors")
    fails(run(*probe, "--weights", tmp_path / "other.safetensors"), "not the weights of this model: 'embedding' is")
    fails(run("probe", tmp_path / "none.nut", "--data", data), "cannot read the artifact")
    fails(run("probe", trained / "model.nut", "--data", tmp_path / "nowhere"), "no such folder")


def test_a_data_set_is_checked(run, data, tmp_path):
    status, out, _ = run("data", "verify", data, "--json")
    assert status == 0
    assert {check["verdict"] for check in json.loads(out)["checks"]} == {"passed"}
    altered = shutil.copytree(data, tmp_path / "altered")
    shard = next(altered.glob("*_val_*.bin"))
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)
    outcome = run("data", "verify", altered)
    fails(outcome, "checks failed: hashes")
    assert shard.name in outcome[1]
    fails(run("data", "verify", tmp_path / "nowhere"), "no such folder")


LONGER = "0 (1)x3"


def test_a_score_under_another_schedule_says_so(run, trained, data):
    score = ("score", trained / "model.nut", "--data", data)
    own = json.loads(run(*score, "--json")[1])
    assert (own["schedule"], own["trained_schedule"]) == ("0-1", "0-1")
    again = json.loads(run(*score, "--schedule", "0 1", "--json")[1])
    timing = {"seconds": 0.0}
    assert again | timing == own | timing
    other = json.loads(run(*score, "--schedule", LONGER, "--json")[1])
    assert (other["schedule"], other["trained_schedule"]) == (LONGER, "0-1")
    assert other["total_nats"] != own["total_nats"]
    assert other["artifact_sha256"] == own["artifact_sha256"]
    assert "not the artifact's own score" in run(*score, "--schedule", LONGER)[1]
    assert "own score" not in run(*score)[1]


def test_scores_by_the_number_of_passes(run, trained, data, tmp_path):
    score = ("score", trained / "model.nut", "--data", data)
    found = json.loads(run(*score, "--schedule", LONGER, "--passes", "1-3", "--json")[1])
    (loop,) = found["loops"]
    own, other = (json.loads(run(*score, *more, "--json")[1]) for more in ((), ("--schedule", LONGER)))
    assert [row["schedule"] for row in loop["passes"]] == ["0-1", "0 (1)x2", LONGER]  # once is what was trained
    assert (loop["passes"][0]["bpb"], loop["passes"][2]["bpb"]) == (own["bpb"], other["bpb"])
    assert loop["passes"][2]["change"]["delta"] > 0
    assert found["artifact_sha256"] == own["artifact_sha256"]
    status, out, _ = run(*score, "--schedule", LONGER, "--passes", 2)
    assert status == 0
    assert "(1)x3, passes" in out
    assert run(*score, "--schedule", LONGER, "--passes", 1, "--out", tmp_path / "passes.json")[0] == 0
    assert read_json(tmp_path / "passes.json")["loops"][0]["passes"] == loop["passes"][:1]


def test_passes_that_cannot_be_scored(run, trained, data):
    score = ("score", trained / "model.nut", "--data", data)
    fails(run(*score, "--passes", "1-3"), "'0-1' has no loop; give --schedule with one", status=2)
    fails(run(*score, "--passes", "3-1"), "--passes 3-1: give the fewest and the most", status=2)
    fails(run(*score, "--passes", "1-3", "--strategy", "sliding"), "drop --strategy and --budget", status=2)


STRATEGIES = {
    "sliding,stride=8": {"stride": 8},
    "rolling,stride=8,mixture={}": {"stride": 8},
    "chunked_sgd,chunk_targets=200,learner.lr=0.05": {"chunk_targets": 200},
    "document_adapters,steps=[{targets = 8}]": {"steps": [{"targets": 8}]},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_by_strategy(run, trained, data, strategy):
    own = json.loads(run("score", trained / "model.nut", "--data", data, "--json")[1])
    status, out, _ = run("score", trained / "model.nut", "--data", data, "--strategy", strategy, "--json")
    assert status == 0
    found = json.loads(out)
    how = found["strategy"]
    assert how["kind"] == strategy.partition(",")[0]
    assert {name: (how | how["settings"])[name] for name in STRATEGIES[strategy]} == STRATEGIES[strategy]
    assert (found["tokens"], found["bytes"], found["coverage"]) == (own["tokens"], own["bytes"], 1.0)
    assert found["bytes_per_token"] == own["bytes"] / own["tokens"]
    assert found["bpb"] == pytest.approx(own["bpb"], rel=0.2)
    assert found["bpb"] != own["bpb"]


def test_a_budget_of_seconds_is_kept_or_refused(run, trained, data):
    score = ("score", trained / "model.nut", "--data", data, "--strategy")
    found = json.loads(run(*score, "chunked_sgd,chunk_targets=50", "--budget", "600s", "--json")[1])
    said = run(*score, "chunked_sgd,chunk_targets=50", "--budget", "600s")[2]
    assert any(line.startswith("score: the whole text looks to take") and "which fits" in line for line in said)
    assert (found["budget"]["seconds"], found["budget"]["kept"], found["coverage"]) == (600.0, True, 1.0)
    assert found["budget"]["forecast_seconds"] > 0
    fails(
        run(*score, "chunked_sgd,chunk_targets=50", "--budget", "0.001s"),
        "budget of 0.001 s: too small for one chunk of",
    )
    fails(run("score", trained / "model.nut", "--data", data, "--budget", "9s"), "needs a --strategy", status=2)


def test_strategies_are_compared_in_a_table_and_a_drawing(run, trained, data, tmp_path):
    compare = ("score", trained / "model.nut", "--data", data, "--compare", "disjoint", "sliding,stride=4")
    drawing, stored = tmp_path / "strategies.svg", tmp_path / "strategies.json"
    status, out, _ = run(*compare, "--plot", drawing)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if "disjoint" in line or "sliding" in line] == [
        "disjoint",
        "sliding,stride=4",
    ]
    assert ElementTree.parse(drawing).getroot().tag.endswith("svg")
    assert run(*compare, "--out", stored)[0] == 0
    first, second = read_json(stored)["rows"]
    assert (first["strategy"], first["gain"]) == ("disjoint", 0.0)
    assert second["gain"] == pytest.approx(1 - second["bpb"] / first["bpb"])


def test_strategies_that_cannot_be_scored(run, trained, data, tmp_path):
    score = ("score", trained / "model.nut", "--data", data)
    fails(run(*score, "--strategy", "slidng"), "unknown kind 'slidng'")
    fails(run(*score, "--strategy", "sliding,strid=4"), "strid")
    fails(run(*score, "--strategy", "sliding,mixture.order=99"), "order 99")
    fails(run(*score, "--strategy", "sliding", "--stride", 4), "--stride is a setting of the strategy here", status=2)
    fails(run(*score, "--compare", "sliding", "--strategy", "sliding"), "--compare names all it scores by", status=2)
    fails(run(*score, "--compare", "sliding", "sliding"), "names a strategy twice", status=2)
    fails(run(*score, "--plot", tmp_path / "x.svg"), "--plot draws what --compare finds", status=2)


@pytest.mark.parametrize(
    "strategy",
    [
        "rolling,stride=4,mixture={scope = 'text'}",
        "chunked_sgd,stride=8,chunk_targets=64",
        "document_adapters,steps=[{targets = 4}]",
    ],
)
def test_a_score_by_any_strategy_is_proved_and_checked(run, trained, data, tmp_path, strategy):
    artifact, proof = trained / "model.nut", tmp_path / "p.nsp"
    prove = ("prove", artifact, "--data", data, "--all", "--strategy", strategy, "--out", proof)
    assert run(*prove)[0] == 0
    receipt = read_json(proof.with_suffix(".json"))
    assert receipt["ok"] is True
    assert receipt["layout"]["strategy"]["kind"] == strategy.partition(",")[0]
    assert run("prove", artifact, "--check", proof)[0] == 0
    claim = tmp_path / "claim.json"
    assert run("score", artifact, "--data", data, "--strategy", strategy, "--out", claim)[0] == 0
    score = read_json(claim)
    assert (receipt["tokens"], receipt["bytes"]) == (score["tokens"], score["bytes"])
    assert receipt["claimed_bits"] == pytest.approx(score["total_nats"] / math.log(2), rel=1e-9)


def test_a_claim_of_what_goes_on_learning_is_about_its_own_documents(run, trained, data, tmp_path):
    claim, artifact = tmp_path / "claim.json", trained / "model.nut"
    assert run("score", artifact, "--data", data, "--strategy", "chunked_sgd,stride=8", "--out", claim)[0] == 0
    prove = ("prove", artifact, "--data", data)
    fails(run(*prove, "--claim", claim, "--docs", 3), "'chunked_sgd' claims for a document depends on all before it")
    assert run(*prove, "--claim", claim, "--all")[0] == 0
    assert run(*prove, "--strategy", "chunked_sgd,stride=8", "--docs", 3)[0] == 0


def test_what_no_decoder_can_follow_is_refused_before_it_is_scored(run, trained, data):
    outcome = run("prove", trained / "model.nut", "--data", data, "--strategy", "sliding,unit=stream,stride=4")
    fails(outcome, "a score over the stream cannot be proved")


def test_a_schedule_that_the_artifact_cannot_run(run, trained, data):
    score = ("score", trained / "model.nut", "--data", data, "--schedule")
    fails(run(*score, "0-2"), "schedule '0-2' runs 3 blocks, the artifact has 2")
    fails(run(*score, "1"), "blocks must be numbered 0 to P-1")
    fails(run(*score, "0 (1"), "a group is written (blocks)xN")


def test_a_score_under_another_schedule_is_neither_proved_nor_reported(run, recipe, data, tmp_path):
    out = tmp_path / "out"
    whole = ("run", recipe, "--data", data, "--out", out)
    assert run(*whole)[0] == 0
    artifact, claim_path = out / "model.nut", out / "score.json"
    summary = read_json(out / "summary.json")
    other = ("score", artifact, "--data", data, "--schedule", LONGER, "--out", claim_path)
    assert run(*other)[0] == 0
    outcome = run("prove", artifact, "--data", data, "--claim", claim_path)
    fails(outcome, f"{artifact}: the score to prove ran '{LONGER}', the artifact runs '0-1'; score it without")
    assert read_json(claim_path)["bpb"] != summary["bpb"]
    assert run(*whole)[0] == 0  # the run's own score is made again
    assert read_json(claim_path)["schedule"] == "0-1"
    assert read_json(out / "summary.json")["bpb"] == summary["bpb"]


@pytest.fixture
def proof(run, trained, data):
    """A stored proof, whose data set is not needed to check it."""
    bitstream = trained / "sample.bits"
    assert run("prove", trained / "model.nut", "--data", data, "--docs", 20, "--out", bitstream)[0] == 0
    return bitstream


def change_receipt(bitstream, change):
    path = bitstream.with_suffix(".json")
    receipt = read_json(path)
    change(receipt)
    path.write_text(json.dumps(store.sealed(receipt)))


def test_a_stored_proof_is_checked_without_the_text(run, trained, proof):
    artifact = trained / "model.nut"
    status, out, _ = run("prove", artifact, "--check", proof)
    receipt = read_json(proof.with_suffix(".json"))
    assert status == 0
    assert out.startswith(f"proved: {receipt['tokens']:,} tokens in {receipt['documents']:,} documents")
    status, out, err = run("prove", artifact, "--check", proof, "--json")
    checked = json.loads(out)
    assert (status, err) == (0, [])
    assert checked.pop("seconds") > 0
    assert checked["ok"] is True
    assert checked == {name: receipt[name] for name in checked}
    assert {"documents", "tokens", "bytes", "coded_bits", "claimed_bits", "text_sha256"} <= checked.keys()


def test_a_proof_that_does_not_hold_is_one_line(run, trained, proof, data, tmp_path):
    check = ("prove", trained / "model.nut", "--check", proof)
    bits, receipt = proof.read_bytes(), proof.with_suffix(".json").read_bytes()
    proof.write_bytes(bits[:-4])
    fails(run(*check), f"{proof}: the proof does not hold: the bitstream is not the one that the receipt")
    proof.write_bytes(bits)
    change_receipt(proof, lambda stored: stored["layout"]["document_crcs"].reverse())
    fails(run(*check), "ended at token")
    proof.with_suffix(".json").write_bytes(receipt)
    change_receipt(proof, lambda stored: stored.update(artifact_sha256="0" * 64))
    fails(run(*check), f"{proof}: a proof of another artifact than {trained / 'model.nut'}")
    proof.with_suffix(".json").write_bytes(receipt)
    assert run(*check)[0] == 0


def test_a_proof_made_elsewhere_says_so_before_it_is_decoded(run, trained, proof):
    change_receipt(proof, lambda stored: stored["environment"].update(processor="an abacus"))
    status, out, err = run("prove", trained / "model.nut", "--check", proof)
    assert status == 0
    said = "the proof may not decode here; it was made with processor an abacus (here "
    assert said in " ".join(err)
    assert out.startswith("proved: ")


def test_a_proof_is_decoded_with_the_threads_that_it_was_made_with(run, trained, proof, monkeypatch):
    threads = read_json(proof.with_suffix(".json"))["layout"]["threads"]
    monkeypatch.setattr("nutshell.pipeline.scoring.num_threads", lambda: threads + 2)  # of another machine
    assert run("prove", trained / "model.nut", "--check", proof)[0] == 0
    assert torch.get_num_threads() == threads
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    change_receipt(proof, lambda stored: stored["layout"].update(threads=threads + 1))
    fails(run("prove", trained / "model.nut", "--check", proof), f"of which torch has {threads}")


def test_what_a_broken_off_proof_has_kept_is_used_and_then_removed(run, trained, data, tmp_path, monkeypatch):
    proof = tmp_path / "p.nsp"
    prove = ("prove", trained / "model.nut", "--data", data, "--all", "--out", proof)
    with monkeypatch.context() as broken:
        broken.setattr("nutshell.score.prove.decode", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*prove)
    (kept,) = (tmp_path / "p.part").glob("*.piece")
    assert kept.name == "coded-0.piece"
    with monkeypatch.context() as spoiled:
        spoiled.setattr("nutshell.score.prove.encode", lambda *_: 1 / 0)
        assert run(*prove)[0] == 0
    assert not (tmp_path / "p.part").exists()
    assert run("prove", trained / "model.nut", "--check", proof)[0] == 0


def test_a_folder_of_somebody_else_is_not_taken_for_what_a_proof_has_kept(run, trained, data, tmp_path):
    (tmp_path / "p.part").mkdir()
    (tmp_path / "p.part" / "thesis.txt").write_text("my work")
    fails(run("prove", trained / "model.nut", "--data", data, "--out", tmp_path / "p.nsp"), "move it away")
    assert (tmp_path / "p.part" / "thesis.txt").read_text() == "my work"


@pytest.fixture
def program(data):
    vocab_size = read_json(data / "manifest.json")["vocab_size"]
    return f"{sys.executable} {EXAMPLES / 'adaptive.py'} {vocab_size} 1"


def test_a_program_is_scored_proved_and_checked(run, data, program, tmp_path):
    score, proof = tmp_path / "score.json", tmp_path / "p.nsp"
    assert run("pipe", "score", program, "--data", data, "--out", score)[0] == 0
    scored = read_json(score)
    assert (scored["metric"], scored["coverage"]) == ("bpb", 1.0)
    assert scored["strategy"]["settings"] == {"command": program}
    assert "bits per byte" in run("pipe", "score", program, "--data", data)[1]
    assert run("pipe", "prove", program, "--data", data, "--all", "--out", proof)[0] == 0
    receipt = read_json(proof.with_suffix(".json"))
    assert receipt["claimed_bits"] == pytest.approx(scored["total_nats"] / math.log(2), rel=1e-12)
    status, out, _ = run("pipe", "check", program, proof, "--data", data)
    assert (status, out.startswith("proved: ")) == (0, True)
    proof.write_bytes(proof.read_bytes()[:-4])
    fails(run("pipe", "check", program, proof, "--data", data), f"{proof}: the proof does not hold")


def test_a_program_that_cannot_be_scored(run, data, trained, program, tmp_path):
    pipe = ("pipe", "score")
    fails(run(*pipe, "/no/such/program", "--data", data), "cannot start it (No such file or directory)")
    beyond = program.rpartition(" ")[0] + " 99999"
    fails(run(*pipe, beyond, "--data", data), "names BOS 99999")
    silent = f"{sys.executable} -c 'import time; time.sleep(60)'"
    fails(run(*pipe, silent, "--data", data, "--timeout", "0.5s"), "has not answered within 0.5 s")
    small = f"{sys.executable} {EXAMPLES / 'adaptive.py'} 20 1"
    fails(run(*pipe, small, "--data", data), "the text has 300 tokens, of which 1 is BOS; the predictor says 20 and 1")
    elsewhere = program.rpartition(" ")[0] + " 2"
    for refused in (
        run(*pipe, elsewhere, "--data", data),
        run("pipe", "prove", elsewhere, "--data", data),
        run("audit", "--command", elsewhere, "--data", data),
    ):
        fails(refused, "the predictor says 300 and 2")
    prove = ("pipe", "prove", program, "--data", data)
    fails(run(*prove, "--all", "--docs", 3), "--all is every document", status=2)
    assert run("prove", trained / "model.nut", "--data", data, "--docs", 2, "--out", tmp_path / "a.nsp")[0] == 0
    fails(run("pipe", "check", program, tmp_path / "a.nsp", "--data", data), "a proof of an artifact, not of a program")


FILES = {
    "text": b"number 7 and then 49 with 0 more words to count\n" * 9,
    "nothing": b"",
    "all bytes": bytes(range(256)) * 2,
    "cut letters": "été, naïve, 字".encode() * 7 + b"\xe5\xad",
    "zeros": bytes(300),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("strategy", ["rolling,mixture={}", "sliding,stride=8"])
def test_any_file_is_compressed_and_comes_back(run, trained, tmp_path, name, strategy):
    artifact, source, packed, back = (trained / "model.nut", *(tmp_path / part for part in ("a", "a.nz", "b")))
    source.write_bytes(FILES[name])
    status, out, _ = run("compress", artifact, source, packed, "--strategy", strategy, "--chunk-bytes", 100, "--json")
    assert status == 0
    assert json.loads(out)["compressed_bytes"] == packed.stat().st_size
    assert run("decompress", artifact, packed, back)[0] == 0
    assert back.read_bytes() == FILES[name]


def test_a_compressed_file_that_cannot_be_read_writes_nothing(run, trained, recipe, data, tmp_path, monkeypatch):
    artifact, source, packed, back = (trained / "model.nut", *(tmp_path / part for part in ("a", "a.nz", "b")))
    source.write_bytes(FILES["text"])
    assert run("compress", artifact, source, packed)[0] == 0
    content = packed.read_bytes()
    for place in range(0, len(content), 7):
        packed.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        fails(run("decompress", artifact, packed, back), f"{packed}: ")
    for cut in (0, 5, 12, len(content) - 1):
        packed.write_bytes(content[:cut])
        fails(run("decompress", artifact, packed, back), f"{packed}: ")
    packed.write_bytes(content)
    other = tmp_path / "other"
    assert run("train", recipe, "--data", data, "--out", other, "--seed", 1)[0] == 0
    assert run("pack", other)[0] == 0
    fails(run("decompress", other / "model.nut", packed, back), "compressed with another artifact")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("nutshell.pipeline.compressing._PROBED_STEPS", 39)
        fails(run("decompress", artifact, packed, back), "whose arithmetic rounds otherwise than here")
    assert not back.exists()
    fails(run("compress", artifact, tmp_path / "none", packed), "none: No such file")
    fails(run("compress", artifact, source, packed, "--strategy", "sliding,unit=stream"), "over the stream")
    assert packed.read_bytes() == content
    assert run("decompress", artifact, packed, back)[0] == 0
    assert back.read_bytes() == FILES["text"]


def test_a_header_that_was_forged_is_one_line(run, trained, tmp_path):
    """With a checksum of its own: what a stranger would write."""
    artifact, source, packed = trained / "model.nut", tmp_path / "a", tmp_path / "a.nz"
    source.write_bytes(FILES["text"])
    assert run("compress", artifact, source, packed)[0] == 0
    content = packed.read_bytes()
    length = int.from_bytes(content[8:12], "little")
    header, bits = msgspec.msgpack.decode(content[12 : 12 + length]), content[12 + length : -4]
    for place, value in [
        (2, "guess"),
        (3, 10**6),
        (4, 0),
        (5, 10**12),
        (6, []),
        (6, [1, 2, 3]),
        (7, 1),
        (8, bytes(32)),
    ]:
        forged = [*header[:place], value, *header[place + 1 :]]
        packed_header = msgspec.msgpack.encode(forged)
        archive = content[:8] + len(packed_header).to_bytes(4, "little") + packed_header + bits
        packed.write_bytes(archive + zlib.crc32(archive).to_bytes(4, "little"))
        fails(run("decompress", artifact, packed, tmp_path / "b"), f"{packed}: ")
    assert not (tmp_path / "b").exists()


def test_an_artifact_is_audited(run, trained, data, tmp_path):
    out = tmp_path / "audit.json"
    audit = ("audit", trained / "model.nut", "--data", data)
    assert run(*audit, "--strategy", "document_adapters,steps=[{targets = 8}]", "--out", out)[0] == 0
    found = read_json(out)
    answers = {verdict["probe"][:2]: verdict["answer"] for verdict in found["verdicts"]}
    assert answers == dict.fromkeys(("P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"), "passed")
    assert found["answer"] == "passed"
    status, _, err = run(*audit, "--tokens", 100)
    assert status == 2
    assert "nothing failed, and yet P1 noise cannot tell" in err[-1]


def test_the_trace_of_a_training_is_read(run, trained, data, tmp_path):
    def trace(artifact=trained / "model.nut"):
        status, out, _ = run("audit", artifact, "--data", data, "--json")
        return status, next(verdict for verdict in json.loads(out)["verdicts"] if verdict["probe"] == "P6 access trace")

    tokens = Dataset.open(data).val.edges[-1]
    assert trace()[1]["evidence"] == f"validation tokens read: {tokens:,} (check), 0 (set_up), 0 (train)"
    receipt = read_json(trained / "run.json")
    receipt["sessions"].append({"reads": {"train": {"train": 5, "val": 3}}})
    write_json(trained / "run.json", receipt)
    status, found = trace()
    assert (status, found["answer"]) == (1, "failed")
    assert found["evidence"].endswith(" 3 (train)")

    for name, changed, why in [
        ("run.json", {"sessions": [{}]}, "kept no trace"),
        ("run.json", {"data_digest": "0" * 64}, "trained on another data set"),
        ("pack.json", {"artifact_sha256": "0" * 64}, "made another artifact"),
    ]:
        write_json(trained / name, read_json(trained / name) | changed)
        _, found = trace()
        assert found["answer"] == "not run"
        assert why in found["evidence"]
    shutil.copyfile(trained / "model.nut", tmp_path / "alone.nut")
    assert trace(tmp_path / "alone.nut")[1]["evidence"] == "the run that made it is not beside it"


@pytest.mark.parametrize(
    ("name", "failed"),
    [
        ("stale_cache", "P3 flips"),
        ("unnormalised_mixture", "P2 normalisation"),
        ("train_then_score", "P1 noise, P3 flips, P4"),
    ],
)
def test_a_program_is_audited(run, data, program, name, failed):
    vocab_size, bos_id = program.split()[-2:]
    command = f"{sys.executable} -m nutshell.audit.zoo {name} {vocab_size} {bos_id}"
    option = "--batch" if name == "train_then_score" else "--command"
    outcome = run("audit", "--data", data, option, command, "--tokens", 20_000)
    fails(outcome, f"{command}: failed ")
    assert failed in outcome[2][-1]
    assert failed.partition(",")[0] in outcome[1]


def test_an_object_is_audited(run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def honest(tokens, vocab_size, bos_id):\n    return np.full(len(tokens) - 1, np.log(vocab_size))\n"
        "def short(tokens, vocab_size, bos_id):\n    return honest(tokens, vocab_size, bos_id)[:-1]\n"
        "def broken(tokens, vocab_size, bos_id):\n    return 1 / 0\n"
        "def words(tokens, vocab_size, bos_id):\n    return ['much'] * (len(tokens) - 1)\n"
    )
    audit = ("audit", "--data", data, "--scorer")
    status, out, _ = run(*audit, "mine:honest")
    assert status == 0, out
    fails(run(*audit, "mine:short"), "P5 coverage and bytes")
    fails(run(*audit, "mine:words"), "failed P1 noise")
    status, out, _ = run(*audit, "mine:broken")
    assert status == 1
    assert "the scorer failed: ZeroDivisionError" in out
    fails(run(*audit, "mine:nothing"), "cannot find it", status=2)
    fails(run(*audit, "mine"), "write it as module:object", status=2)


def test_what_cannot_be_audited(run, trained, data):
    artifact = trained / "model.nut"
    fails(run("audit", "--data", data), "name one thing", status=2)
    fails(run("audit", artifact, "--data", data, "--command", "x"), "name one thing", status=2)
    fails(run("audit", "--data", data, "--command", "x", "--strategy", "rolling"), "drop it", status=2)
    fails(run("audit", artifact, "--data", data, "--independent"), "--independent is for --batch", status=2)
    fails(run("audit", "--data", data, "--command", "/no/such"), "cannot start it")
    fails(run("audit", artifact, "--data", data, "--strategy", "sliding,unit=stream"), "cannot be proved")
    failing = f"{sys.executable} -c 'import sys; sys.exit(\"no GPU\")'"
    status, out, _ = run("audit", "--data", data, "--batch", failing)
    assert (status, "no GPU" in out) == (1, True)


def test_every_altered_value_of_a_receipt_is_noticed(run, trained, proof):
    """A byte in another place each time: what is no receipt any more, or has another value, is refused."""
    path = proof.with_suffix(".json")
    content = path.read_bytes()
    noticed = 0
    for place in range(3, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            same = json.loads(path.read_bytes()) == json.loads(content)
        except ValueError:
            same = False
        if not same:  # spaces between values are nobody's
            fails(run("prove", trained / "model.nut", "--check", proof), f"{path}: ")
            noticed += 1
    assert noticed > 100


def test_a_receipt_that_is_none(run, trained, proof):
    check = ("prove", trained / "model.nut", "--check", proof)
    path = proof.with_suffix(".json")
    receipt = read_json(path)
    layout = receipt["layout"]
    for change in (
        {"tokens": "many"},
        {"layout": layout | {"rows": 0}},
        {"layout": layout | {"threads": 1025}},
        {"layout": layout | {"pieces": [1]}},
        {"layout": layout | {"document_crcs": layout["document_crcs"][1:]}},
    ):
        path.write_text(json.dumps(store.sealed(receipt | change)))
        fails(run(*check), f"{path}: not the receipt of a proof")
    for content in (b"", b"{", b"[]", b"\xff", b'{"x": ' + b"[" * 100_000):
        path.write_bytes(content)
        fails(run(*check), f"{path}: not the receipt of a proof")
    for change, said in (({"stride": 17}, "stride 17"), ({"kind": "guess"}, "unknown kind 'guess'")):
        forged = receipt | {"layout": layout | {"strategy": layout["strategy"] | change}}
        path.write_text(json.dumps(store.sealed(forged)))
        fails(run(*check), f"{proof}: the proof does not hold: ")
        fails(run(*check), said)
    path.unlink()
    fails(run(*check), f"{path}: cannot read the proof (No such file or directory)")
    proof.unlink()
    fails(run(*check), f"{proof}: cannot read the proof (No such file or directory)")


def test_options_of_a_proof_that_do_not_go_together(run, trained, data, tmp_path):
    artifact = trained / "model.nut"
    making = {"--data": data, "--docs": 3, "--max-tokens": 9, "--claim": tmp_path / "c", "--out": tmp_path / "o"}
    for option, value in making.items():
        outcome = run("prove", artifact, "--check", tmp_path / "p.nsp", option, value)
        fails(outcome, f"--check decodes a proof that is there, and {option} is for making one", status=2)
    for option in (("--all",), ("--strategy", "rolling")):
        outcome = run("prove", artifact, "--check", tmp_path / "p.nsp", *option)
        fails(outcome, f"{option[0]} is for making one", status=2)
    prove = ("prove", artifact, "--data", data)
    fails(run(*prove, "--all", "--docs", 3), "--all is every document; drop --docs and --max-tokens", status=2)
    fails(run(*prove, "--claim", tmp_path / "c", "--strategy", "rolling"), "drop --strategy", status=2)
    fails(run("prove", artifact), "give --data to make a proof, or --check to decode one", status=2)
    for name in ("p.json", "."):
        fails(run("prove", artifact, "--data", data, "--out", name), "not a bitstream's name", status=2)
        fails(run("prove", artifact, "--check", name), "not a bitstream's name", status=2)


def test_a_stride_outside_the_window(run, trained, data):
    fails(run("score", trained / "model.nut", "--data", data, "--stride", 17), "stride 17")
    fails(run("score", trained / "model.nut", "--data", data, "--stride", 0), "stride 0")


def test_numbers_that_mean_nothing(run, trained, data):
    fails(run("prove", trained / "model.nut", "--data", data, "--docs", 0), "must be at least 1")
    fails(run("pack", trained, "--budget-bytes", 0), "give a positive number")


def test_a_claim_that_is_no_score(run, trained, data, tmp_path):
    artifact = trained / "model.nut"
    (tmp_path / "score.json").write_text(json.dumps({"artifact_sha256": sha256_file(artifact), "bpb": "low"}))
    fails(run("prove", artifact, "--data", data, "--claim", tmp_path / "score.json"), "not what `nutshell score --out`")


def test_a_listed_skip_does_not_fit_a_phase(run, recipe):
    text = SMALL.replace('schedule = "0-1"', 'schedule = "0-1 0", skips = [[0, 2]]')
    phase = text.replace('compile = "never"', 'phases = [{ until = 0.5, schedule = "0-1" }]')
    recipe.write_text(phase)
    fails(run("describe", recipe), "skips listed as edges fit '0-1 0'")
    recipe.write_text(text)
    assert run("describe", recipe)[0] == 0


def test_shards_that_were_altered(run, recipe, data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    shard = next(copy.glob("*_train_*.bin"))
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1
    shard.write_bytes(content)
    fails(run("train", recipe, "--data", copy, "--out", tmp_path / "o"), "not what manifest.json describes")


def test_a_run_is_deleted_with_what_a_broken_off_proof_has_kept(tmp_path):
    run_dir = tmp_path / "out"
    (run_dir / "proof.part").mkdir(parents=True)
    (run_dir / "proof.part" / "coded-0.piece").write_bytes(b"bits")
    store.remove_run(run_dir)
    assert not run_dir.exists()


def test_fresh_deletes_nothing_that_no_run_wrote(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    fails(run("demo", "--fresh", "--out", tmp_path), "holds 'thesis.tex', which no run writes")
    assert (tmp_path / "thesis.tex").exists()


def test_a_proof_that_fails_is_written_down_and_fails_the_run(run, recipe, data, tmp_path):
    recipe.write_text(SMALL + "[prove]\ndocuments = 20\nmax_tokens = 5000\n")
    out = tmp_path / "out"
    arguments = ("run", recipe, "--data", data, "--out", out)
    assert run(*arguments)[0] == 0
    (out / "proof.json").unlink()
    score = read_json(out / "score.json")
    score["document_nats"] = [nats * 0.9 for nats in score["document_nats"]]
    (out / "score.json").write_text(json.dumps(score))
    for _ in range(2):  # a second try proves again, and fails again
        fails(run(*arguments), "the score is not proved")
        assert read_json(out / "summary.json")["proof"]["ok"] is False
        assert (out / "report.html").exists()


def test_a_score_that_an_older_version_wrote_is_made_again(run, recipe, data, tmp_path):
    out = tmp_path / "out"
    arguments = ("run", recipe, "--data", data, "--out", out)
    assert run(*arguments)[0] == 0
    score = read_json(out / "score.json")
    older = {key: value for key, value in score.items() if key != "stream_bpb"}
    (out / "score.json").write_text(json.dumps(older))
    assert run(*arguments)[0] == 0
    assert read_json(out / "score.json")["stream_bpb"] == read_json(out / "summary.json")["stream_bpb"]
    assert read_json(out / "score.json")["total_nats"] == score["total_nats"]


def test_no_space_left_leaves_what_was_there(run, trained, data, monkeypatch):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    fails(run("pack", trained, "--budget-bytes", 20_000), "No space left on device")
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def threads(number):
    return {**os.environ, "OMP_NUM_THREADS": str(number)}


@pytest.fixture
def other_precision(monkeypatch):
    """Go on as if on a processor that has bf16 products if this one has none, and none if it has."""

    def switch():
        found = None if compute.bf16_extension() else "amx_bf16"
        monkeypatch.setattr(compute, "bf16_extension", lambda: found)

    return switch


def test_resuming_in_another_precision_is_refused(run, recipe, data, tmp_path, monkeypatch, other_precision):
    write = MetricsLog.write

    def interrupt(log, row):
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return write(log, row)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(MetricsLog, "write", interrupt)
        fails(run("train", recipe, "--data", data, "--out", out), "stopped at step 2", status=130)
    checkpoint = (out / "checkpoint.safetensors").read_bytes()
    other_precision()
    fails(run("train", recipe, "--data", data, "--out", out, "--resume"), "and here it would go on in")
    assert (out / "checkpoint.safetensors").read_bytes() == checkpoint


def test_a_finished_training_is_kept_on_a_machine_of_another_precision(run, recipe, data, trained, other_precision):
    assert read_json(trained / "run.json")["changes_on_resume"] == []
    other_precision()
    status, _, err = run("train", recipe, "--data", data, "--out", trained)
    assert status == 0
    assert "done before" in err[0]


def test_ctrl_c_leaves_a_checkpoint_that_resume_continues(recipe, data, tmp_path):
    recipe.write_text(SMALL.replace("steps = 3", "steps = 4000"))
    command = [sys.executable, "-m", "nutshell", "train", recipe, "--data", data, "--out", tmp_path / "o"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=threads(2))
    metrics = tmp_path / "o/metrics.jsonl"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 2_000):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "is written: train --resume, or run again" in err.splitlines()[-1]
    stopped_at = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert stopped_at < 4000
    again = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert again.returncode == 1
    assert "continue it with --resume" in again.stderr
    resumed = subprocess.run([*map(str, command), "--resume"], capture_output=True, text=True, env=threads(1))
    assert resumed.returncode == 0, resumed.stderr
    warnings = [line for line in resumed.stderr.splitlines() if line.startswith("resumed after")]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"resumed after step {stopped_at}: threads was 2 and is 1 here; steps round")
    receipt = read_json(tmp_path / "o/run.json")
    assert receipt["threads"] == 1
    change = {"after_step": stopped_at, "condition": "threads", "before": "2", "after": "1"}
    assert receipt["changes_on_resume"] == [change]
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 4001))
    assert not (tmp_path / "o/checkpoint.safetensors").exists()


def test_a_profile_says_where_the_time_went(run, recipe, data, tmp_path):
    recipe.write_text(SMALL.replace("steps = 3", "steps = 6"))
    out = tmp_path / "o"
    status, shown, err = run("train", recipe, "--data", data, "--out", out, "--profile")
    assert status == 0
    assert err[-1] == f"trained: {out}"
    (phase,) = read_json(out / "profile.json")["phases"]
    assert phase["steps"] == 3
    assert {"data", "forward", "loss", "backward", "optimizer", "logging"} <= phase["stages"].keys()
    assert "aten::mm" in shown
    assert "3 steps recorded" in shown
    again = run("train", recipe, "--data", data, "--out", out, "--profile")
    fails(again, "is done, and --profile watches a training; choose another --out", status=2)


def test_an_average_that_never_acted_is_an_error_however_often_the_run_is_repeated(run, recipe, data, tmp_path):
    never = ("--set", 'train.averages=[{kind="swa",every=50}]')
    for _ in range(2):
        fails(
            run("run", recipe, "--data", data, "--out", tmp_path / "out", *never), "'swa' was scheduled and never acted"
        )
    fails(run("pack", tmp_path / "out"), "'swa' was scheduled and never acted")
    assert not (tmp_path / "out/weights.safetensors").exists()
    assert (tmp_path / "out/weights-last.safetensors").exists()
    assert read_json(tmp_path / "out/run.json")["never_active"] == ["swa"]
