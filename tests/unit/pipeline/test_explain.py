import io
import json
import math
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from nutshell import verbs
from nutshell.artifact.load import load
from nutshell.data.dataset import Dataset
from nutshell.errors import RunError, UsageError
from nutshell.files import sha256_file
from nutshell.model.lm import LM
from nutshell.pipeline import explain as explaining
from nutshell.pipeline.calibrating import SEED, calibrate_model
from nutshell.pipeline.explain import _bound, explain
from nutshell.pipeline.packing import pack_run
from nutshell.quant.statistics import Statistics
from nutshell.recipe import resolve
from nutshell.report.explain_tables import explain_view
from nutshell.report.terminal import THEME
from tiny_text import write_moved_run, write_tiny

REST = """
[train]
batch_size = 4
seq_len = 20
budget = { steps = 1 }
[pack]
budget_bytes = 23_000
rules = [{ kind = "rtn", roles = ["matrix"] }, { kind = "rtn", roles = ["embedding"] }]
[score]
stride = 10
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A packed run of a model that was not trained, but moved off its first values."""
    folder = write_tiny(tmp_path_factory.mktemp("explain"), REST)
    made = write_moved_run(folder)
    (made / "run.json").write_text(json.dumps({"weights_sha256": sha256_file(made / "weights.safetensors")}))
    pack_run(made)
    return made, folder / "data", load_file(made / "weights.safetensors")


@pytest.fixture(scope="module")
def found(run):
    made, data, _ = run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explaining, "CALIBRATION_TOKENS", 4_000)
        heard = []
        result = explain(made, data, tokens=300, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(number, len(heard)) for number in range(1, len(heard) + 1)]
    return result


def bpb(run, weights):
    """Score the first 300 tokens of the validation text window by window, with plain weights."""
    made, data, _ = run
    dataset = Dataset.open(data)
    recipe = resolve(str(made / "recipe.toml")).recipe
    model = LM(recipe.model, [recipe.final_schedule])
    model.load_state_dict(weights)
    bos = dataset.tokenizer.bos_id
    tokens = [token for document in dataset.val_documents() for token in [bos, *document.tolist()]] + [bos]
    pieces = [
        len(piece) for document in dataset.val_documents() for piece in [*dataset.tokenizer.pieces(document), b""]
    ]
    nats = 0.0
    for start in range(0, 300, 20):
        log_p = model(torch.tensor([tokens[start : start + 20]]), recipe.final_schedule)[0].log_softmax(-1)
        nats -= sum(log_p[place, tokens[start + place + 1]].item() for place in range(20))
    return nats / math.log(2) / sum(pieces[:300])


def packed_weights(run):
    return load((run[0] / "model.nut").read_bytes()).model.state_dict()


def test_losses_are_those_of_one_group_packed_and_the_rest_as_trained(run, found):
    exact, packed = run[2], packed_weights(run)
    base = bpb(run, exact)
    assert found["exact_bpb"] == pytest.approx(base, rel=1e-6)
    assert found["lost_bpb"] == pytest.approx(bpb(run, packed) - base, abs=1e-6)
    block = {name: packed[name] if name.startswith("blocks.1.") else value for name, value in exact.items()}
    rows = {row["group"]: row for row in found["blocks"]}
    assert set(rows) == {"outside", "0", "1", "2"}
    assert rows["1"]["lost_bpb"] == pytest.approx(bpb(run, block) - base, abs=1e-6)
    table = {name: packed[name] if name == "embedding" else value for name, value in exact.items()}
    rows = {row["group"]: row for row in found["roles"]}
    assert rows["embedding"]["lost_bpb"] == pytest.approx(bpb(run, table) - base, abs=1e-6)


def test_groups_have_all_weights_and_all_bytes_of_weights(run, found):
    ledger = json.loads((run[0] / "pack.json").read_text())
    sections = sum(row["bytes"] for row in ledger["sections"] if row["name"] in run[2])
    for groups in ("roles", "blocks"):
        assert sum(row["weights"] for row in found[groups]) == sum(value.numel() for value in run[2].values())
        assert sum(row["num_bytes"] for row in found[groups]) == sections


def test_a_visit_is_packed_without_the_others(found):
    visits = {(row["block"], row["iteration"]): row for row in found["visits"]}
    blocks = {row["group"]: row for row in found["blocks"]}
    assert list(visits) == [(0, 0), (1, 0), (1, 1), (2, 0)]
    for block in (0, 2):
        assert visits[block, 0]["lost_bpb"] == pytest.approx(blocks[str(block)]["lost_bpb"], abs=1e-9)
    assert visits[1, 0]["lost_bpb"] != visits[1, 1]["lost_bpb"]
    both = visits[1, 0]["lost_bpb"] + visits[1, 1]["lost_bpb"]
    assert 0.2 < blocks["1"]["lost_bpb"] / both < 5
    assert visits[1, 1]["growth"] == pytest.approx(visits[1, 1]["stream_error"] / visits[1, 0]["stream_error"])


def test_no_matrix_is_below_the_bound_of_its_error(found):
    names = [row["name"] for row in found["matrices"]]
    assert "embedding" in names
    assert len(names) == 1 + 3 * 6
    for row in found["matrices"]:
        assert row["gap_bits"] == pytest.approx(row["bits_per_weight"] - row["bound_bits"])
        assert row["gap_bits"] > 0.2  # rounding is 0.25 bit away at best
        assert row["predicted_bpb"] > 0


def test_what_was_found_is_stored_and_shown(run, found):
    assert json.loads((run[0] / "explain.json").read_text()) == found
    console = Console(theme=THEME, width=120, record=True, file=io.StringIO())
    console.print(explain_view(found))
    shown = console.export_text()
    for word in ("300 tokens", "embedding", "outside", "stream error", "blocks.2.mlps.0.down.weight", "gap"):
        assert word in shown


def test_the_verb_explains_after_packing_if_it_has_the_data(run, monkeypatch, capsys):
    made, data, _ = run
    monkeypatch.setattr(explaining, "CALIBRATION_TOKENS", 1_000)
    with pytest.raises(UsageError, match="give the data set with --data"):
        verbs.pack(made, explain=True)
    verbs.pack(made, data=data, explain=True, json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["artifact_bytes"] <= 23_000
    assert shown["explanation"] == json.loads((made / "explain.json").read_text())


def test_an_artifact_of_other_weights_is_not_explained(run, tmp_path):
    made, data, weights = run
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "weights.safetensors")
    with pytest.raises(RunError, match="was not made of these weights; pack the run again"):
        explain(tmp_path, data)
    with pytest.raises(UsageError, match="at least one token, got 0"):
        explain(made, data, tokens=0)
    (tmp_path / "pack.json").unlink()
    with pytest.raises(RunError, match="pack the run first"):
        explain(tmp_path, data)


def test_the_bound_pours_water_over_the_rows_and_the_axes_of_the_inputs():
    """Two rows of variances 1 and 100, two axes of 4 and 0.25: components of 4, 0.25, 400 and 25 under one level."""
    weight = torch.tensor([[1.0, -1.0], [10.0, -10.0]])
    turn = torch.tensor([[3.0, -4.0], [4.0, 3.0]], dtype=torch.float64) / 5
    hessian = turn @ torch.diag(torch.tensor([4.0, 0.25], dtype=torch.float64)) @ turn.T
    known = Statistics(hessian, torch.tensor([1.0, 1.0], dtype=torch.float64))
    level = 1.0  # above the smallest component, which is left out: distortions 1, 0.25, 1, 1
    bits = (math.log2(4) + math.log2(400) + math.log2(25)) / 2 / 4
    assert _bound(weight, known, nats=(3 * level + 0.25) / 2) == pytest.approx(bits, rel=1e-6)


def test_curvature_is_measured_on_other_text_than_packing_is_calibrated_on(run, tmp_path, monkeypatch):
    seeds = []

    def noted(*arguments, seed=SEED, **options):
        seeds.append(seed)
        return calibrate_model(*arguments, seed=seed, **options)

    made = tmp_path / "run"
    shutil.copytree(run[0], made)
    monkeypatch.setattr(explaining, "CALIBRATION_TOKENS", 400)
    monkeypatch.setattr(explaining, "calibrate_model", noted)
    explain(made, run[1], tokens=100)
    assert len(seeds) == 1
    assert SEED not in seeds
