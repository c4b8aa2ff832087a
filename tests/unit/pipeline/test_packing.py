"""The stage that packs a run: what of its recipe reaches the calibration, and what it refuses."""

import json
from contextlib import contextmanager

import pytest

from nutshell.artifact.pack import Contents, Packer, matrices_of
from nutshell.errors import RunError, UsageError
from nutshell.files import sha256_file
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.pipeline import packing
from nutshell.pipeline.calibrating import calibrate_model
from nutshell.pipeline.packing import pack_run, packing_ranks
from nutshell.pipeline.weights import unpacked_model
from nutshell.recipe import resolve
from tiny_text import write_moved_run, write_tiny

REST = """
[train]
batch_size = 4
seq_len = 20
budget = {{ steps = 1 }}
[pack]
budget_bytes = 60_000
rules = [{{ kind = "gptq", roles = ["matrix", "embedding"], grid = {{ kind = "sd_clip", bits = 6, sigmas = 12.85 }} }}]
calibration = {{ kind = "{kind}", metric = "{metric}", tokens = 900 }}
[score]
stride = 10
"""


def moved_run(folder, kind, metric):
    folder.mkdir()
    made = write_moved_run(write_tiny(folder, REST.format(kind=kind, metric=metric)))
    (made / "run.json").write_text(json.dumps({"weights_sha256": sha256_file(made / "weights.safetensors")}))
    return made


def packed_by_hand(folder, metric):
    recipe = resolve(str(folder / "small.toml")).recipe
    model = unpacked_model(recipe.model, recipe.final_schedule, folder / "run/weights.safetensors")
    contents = Contents.of(
        model.state_dict(),
        ParamTable.of(LM(recipe.model, [recipe.final_schedule])),
        recipe=(folder / "run/recipe.toml").read_text(),
        tokenizer=(folder / "run/tokenizer.model").read_bytes(),
    )
    names = [matrix.name for matrix in matrices_of(contents, recipe.pack, {})]
    statistics = calibrate_model(model, recipe, source="generated", tokens=900, names=names, metric=metric)
    return Packer(contents, recipe.pack, statistics).pack(None).content


def test_the_calibration_has_the_recipes_metric(tmp_path):
    contents = {}
    for metric in ("gradients", "inputs"):
        made = moved_run(tmp_path / metric, "generated", metric)
        pack_run(made)
        contents[metric] = (made / "model.nut").read_bytes()
        assert contents[metric] == packed_by_hand(tmp_path / metric, metric)
    assert contents["gradients"] != contents["inputs"]


def test_a_calibration_on_training_text_needs_it(tmp_path):
    made = moved_run(tmp_path / "training", "training", "inputs")
    with pytest.raises(UsageError, match="give the data set with --data DIR"):
        pack_run(made)
    assert pack_run(made, tmp_path / "training/data")["calibration_seconds"] > 0


def test_a_rank_that_is_gone_is_named(monkeypatch):
    @contextmanager
    def left(*_, **__):
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4321")
        yield

    monkeypatch.setattr(packing, "joined_ranks", left)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"a process of this packing is gone .*Connection closed"), packing_ranks():
        pass


def test_other_weights_than_the_receipts_are_refused(tmp_path):
    made = moved_run(tmp_path / "other", "generated", "inputs")
    (made / "run.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
    with pytest.raises(RunError, match=r"not the weights that run\.json names; train the run again"):
        pack_run(made)
