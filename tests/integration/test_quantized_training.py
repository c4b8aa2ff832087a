"""Training that sees its weights as they will be packed: what it is for, and what is refused."""

import pytest
import safetensors.torch

from nutshell.data.dataset import Dataset
from nutshell.errors import RecipeError
from nutshell.files import read_json, write_json
from nutshell.pipeline.averages import score_weights
from nutshell.pipeline.packing import pack_run
from nutshell.pipeline.scoring import score_artifact
from nutshell.pipeline.training import Told, Training
from nutshell.recipe import resolve
from tiny_text import write_tiny

RECIPE = """
[train]
batch_size = 8
seq_len = 32
compile = "never"
averages = [{ kind = "ema", decay = 0.5 }]
packed = "last"
budget = { steps = 80 }
[pack]
budget_bytes = 60_000
rules = [{ kind = "rtn", roles = ["matrix", "embedding"], grid = { kind = "absmax", bits = 2 } }]
[score]
stride = 16
"""
LATE = "train.phases=[{until=0.5,qat=false}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("quantized"), RECIPE)


def run(folder, name, *settings):
    """Train, pack, and score weights and artifact."""
    run_dir = folder / name
    resolved = resolve(str(folder / "small.toml"), settings)
    Training(resolved, Dataset.open(folder / "data"), run_dir, seed=0).run(resume=False, told=Told())
    pack_run(run_dir)
    score_weights(run_dir, folder / "data", progress=silent)
    score = score_artifact(run_dir / "model.nut", folder / "data", stride=None, progress=silent)
    write_json(run_dir / "score.json", score)
    return run_dir


def silent(done, total):
    """Show no progress."""


def cost_of_packing(run_dir):
    """By how many bits a byte the artifact is worse than its weights were."""
    unpacked = read_json(run_dir / "averages.json")["weights"]["last"]["disjoint_bpb"]
    return read_json(run_dir / "score.json")["disjoint_bpb"] - unpacked


@pytest.fixture(scope="module")
def plain(folder):
    return run(folder, "plain")


@pytest.mark.parametrize("mode", ["ste", "noise"])
def test_weights_that_saw_their_grid_lose_less_on_it(folder, plain, mode):
    trained = run(folder, mode, f'train.qat={{kind="{mode}"}}', LATE)
    assert cost_of_packing(trained) < 0.7 * cost_of_packing(plain)
    assert read_json(trained / "score.json")["bpb"] < read_json(plain / "score.json")["bpb"]
    receipt = read_json(trained / "run.json")
    assert (receipt["features"]["qat"]["first_step"], receipt["features"]["qat"]["last_step"]) == (41, 80)
    assert receipt["recompiled"] == 0


def test_weights_that_were_put_on_their_grid_lose_nothing_more(folder, plain):
    trained = run(folder, "snap", 'train.qat={kind="snap"}', LATE)  # the last step is one that snaps
    assert abs(cost_of_packing(trained)) < 0.01 * cost_of_packing(plain)
    # Here two bits are too few for it: what ten steps move by less than half a step is undone (docs/qat.md).
    acted = read_json(trained / "run.json")["features"]["qat"]
    assert (acted["first_step"], acted["last_step"], acted["steps"]) == (50, 80, 4)  # every tenth step from 41 on


def test_the_artifact_holds_the_very_weights_wherever_the_run_ended_between_two_snaps(folder):
    settings = ('train.qat={kind="snap",every=3}', "train.budget.steps=8")
    resolved = resolve(str(folder / "small.toml"), settings)
    training = Training(resolved, Dataset.open(folder / "data"), folder / "between", seed=0)
    training.run(resume=False, told=Told())
    weights = safetensors.torch.load_file(folder / "between/weights.safetensors")
    for name in ("embedding", "blocks.0.attentions.0.q.weight"):
        assert all(len(row.unique()) <= 3 for row in weights[name]), name  # two bits: -s, 0 and s


def test_a_rate_term_makes_the_artifact_smaller(folder, plain):
    trained = run(folder, "rate", 'train.penalties=[{kind="rate",weight=0.3}]')
    sizes = [read_json(run_dir / "pack.json")["artifact_bytes"] for run_dir in (trained, plain)]
    assert sizes[0] < 0.9 * sizes[1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (LATE, "qat = false of a phase has no effect: train.qat is not set"),
        ('train.qat={kind="ste",rate_bits=3.0}', "train.qat.rate_bits has no effect"),
        ('train.qat={kind="ste",roles=[]}', "train.qat has no effect: no role is listed"),
        ('train.penalties=[{kind="rate",weight=0.1,rate_bits=3.0}]', "rate_bits has no effect"),
        ('train.penalties=[{kind="nuclear",weight=0.0}]', "weight must be positive"),
    ],
)
def test_what_would_have_no_effect_is_refused(folder, setting, message):
    with pytest.raises(RecipeError, match=message):
        resolve(str(folder / "small.toml"), [setting])
