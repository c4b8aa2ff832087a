"""The whole path through the installed command, in processes of their own, on a small text; under a minute."""

import json
import random
import subprocess
import sys

import pytest

RECIPE = """
about = "a test"
[model]
vocab_size = 400
model_dim = 32
attention = { num_heads = 2, num_kv_heads = 1 }
modulate = [{ kind = "branch_scale" }]
inputs = [{ kind = "embed_norm" }]
logits = [{ kind = "softcap" }]
mlp = { kind = "relu2", mlp_dim = 64 }
residual = { kind = "sequential", entry = [{ kind = "x0_mix" }] }
[model.depth]
schedule = "0 (1)x2 2"
skips = "mirror"
[train]
batch_size = 4
seq_len = 64
averages = [{ kind = "ema", decay = 0.9 }, { kind = "swa", start = 0.7, every = 2 }]
compile = "never"
phases = [{ until = 0.5, schedule = "0-2" }]
budget = { steps = 20 }
[pack]
budget_bytes = 30_000
rules = [{ kind = "rtn", roles = ["matrix", "embedding"] }]
[score]
windows = "rolling"
stride = 32
[prove]
documents = 2
max_tokens = 600
"""


def nutshell(*arguments, cwd, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "nutshell", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == status, done.stderr
    return done


def words(rng, count):
    vocabulary = [f"{a}{b}" for a in ("ba", "do", "ki", "mu", "re") for b in ("lor", "tin", "sap", "wex", "nod")]
    return " ".join(rng.choice(vocabulary) for _ in range(count))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A data set and a finished run of it."""
    folder = tmp_path_factory.mktemp("job")
    rng = random.Random(0)
    texts = [{"text": f"{words(rng, 80)}.\n"} for _ in range(120)]
    (folder / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    (folder / "small.toml").write_text(RECIPE)
    nutshell("data", "build", "text.jsonl", "--vocab", 400, "--out", "data", "--val-frac", 0.2, cwd=folder)
    nutshell("run", "small.toml", "--data", "data", "--out", "out", cwd=folder)
    return folder


def test_the_summary_answers(finished):
    summary = json.loads((finished / "out/summary.json").read_text())
    assert 0 < summary["bpb"] < 8
    assert summary["artifact_bytes"] == (finished / "out/model.nut").stat().st_size <= summary["budget_bytes"]
    assert set(summary["compressors"]) == {"xz -9e", "brotli -11", "zstd -22"}
    assert summary["proof"]["ok"]
    assert summary["proof"]["documents"] == 2
    claimed_bits = summary["proof"]["claimed_bits"]
    assert (
        abs(summary["proof"]["coded_bits"] - claimed_bits) < 1e-3 * claimed_bits + 64
    )  # the coder ends on whole words
    assert summary["coverage"] == 1.0
    receipt = json.loads((finished / "out/run.json").read_text())
    assert summary["peak_memory_bytes"] == receipt["peak_memory_bytes"]
    assert {"train", "pack", "score", "prove"} <= summary["seconds"].keys()
    assert (finished / "out/report.html").stat().st_size > 10_000


def test_the_score_is_the_decoded_texts_code_length(finished):
    score = json.loads((finished / "out/score.json").read_text())
    manifest = json.loads((finished / "data/manifest.json").read_text())
    assert score["bytes"] == manifest["val"]["bytes"]
    assert len({score["bpb"], score["disjoint_bpb"], score["stream_bpb"]}) == 3
    assert score["bpb"] == pytest.approx(score["total_nats"] / 0.6931471805599453 / score["bytes"], rel=1e-12)


def test_a_finished_run_does_nothing_again_and_stages_run_alone(finished):
    before = {path.name: path.stat().st_mtime_ns for path in (finished / "out").iterdir()}
    again = nutshell("run", "small.toml", "--data", "data", "--out", "out", cwd=finished)
    assert "done before" in again.stderr
    kept = ("run.json", "weights.safetensors", "model.nut", "pack.json", "score.json", "proof.json")
    assert all((finished / "out" / name).stat().st_mtime_ns == before[name] for name in kept)
    alone = json.loads(nutshell("score", "out/model.nut", "--data", "data", "--json", cwd=finished).stdout)
    stored = json.loads((finished / "out/score.json").read_text())
    assert alone["total_nats"] == stored["total_nats"]
    receipt = json.loads(
        nutshell("prove", "out/model.nut", "--data", "data", "--docs", 1, "--json", cwd=finished).stdout
    )
    assert receipt["ok"]
    checked = json.loads(nutshell("prove", "out/model.nut", "--check", "out/proof.nsp", "--json", cwd=finished).stdout)
    proved = json.loads((finished / "out/summary.json").read_text())["proof"]
    assert {key: checked[key] for key in ("tokens", "text_sha256")} == {
        key: proved[key] for key in ("tokens", "text_sha256")
    }


def test_every_average_is_scored_and_the_chosen_one_is_packed(finished):
    found = json.loads((finished / "out/averages.json").read_text())
    assert found["packed"] == "ema"
    assert set(found["weights"]) == {"ema", "last", "swa"}
    bpb = {name: each["disjoint_bpb"] for name, each in found["weights"].items()}
    assert len(set(bpb.values())) == 3
    summary = json.loads((finished / "out/summary.json").read_text())
    assert summary["averages"] == {"packed": "ema", "disjoint_bpb": bpb}
    # What is packed costs little more than its own weights do unpacked.
    assert summary["disjoint_bpb"] == pytest.approx(bpb["ema"], rel=0.05)
    options = ("--data", "data", "--set", "train.packed=last")
    nutshell("train", "small.toml", *options, "--out", "last", cwd=finished)
    assert (finished / "last/weights.safetensors").read_bytes() == (
        finished / "out/weights-last.safetensors"
    ).read_bytes()
    assert (finished / "last/weights-ema.safetensors").read_bytes() == (
        finished / "out/weights.safetensors"
    ).read_bytes()


def test_sample_continues_the_prompt_and_repeats_with_its_seed(finished):
    arguments = ("sample", "out/model.nut", "--prompt", "balor ", "--max-tokens", 80, "--json")
    texts = [json.loads(nutshell(*arguments, cwd=finished).stdout)["text"] for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("balor ")
    assert len(texts[0]) > len("balor ")


def test_packing_under_another_budget(finished):
    ledger = json.loads(nutshell("pack", "out", "--budget-bytes", 20_000, "--json", cwd=finished).stdout)
    assert ledger["artifact_bytes"] == sum(row["bytes"] for row in ledger["sections"]) <= 20_000
    assert ledger["artifact_bytes"] == sum(ledger["bytes_by_kind"].values())
    bits_per_value = {row["name"]: row["bits_per_value"] for row in ledger["sections"] if row["kind"] == "codes"}
    assert 1 < bits_per_value["embedding"] < 16
    assert {row["bits_per_value"] for row in ledger["sections"] if row["kind"] == "frame"} == {None}
    failed = nutshell("pack", "out", "--budget-bytes", 1_000, cwd=finished, status=1)
    assert failed.stderr.strip().splitlines()[-1].startswith("nutshell: the artifact has")
    assert (finished / "out/model.nut").stat().st_size == ledger["artifact_bytes"]
    nutshell("pack", "out", cwd=finished)


def test_two_seeds_differ_and_one_seed_repeats_to_the_byte(finished):
    artifacts = []
    for out, seed in (("a", 5), ("b", 5), ("c", 6)):
        nutshell("train", "small.toml", "--data", "data", "--out", out, "--seed", seed, cwd=finished)
        nutshell("pack", out, cwd=finished)
        artifacts.append((finished / out / "model.nut").read_bytes())
    assert artifacts[0] == artifacts[1] != artifacts[2]
