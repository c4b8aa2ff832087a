import numpy as np
import pytest
import torch

from models import BOS, build_model, model_config
from nutshell.data.dataset import Dataset
from nutshell.data.loading import build_loader
from nutshell.errors import UsageError
from nutshell.model.lm import LM
from nutshell.pipeline.calibrating import SEED, calibrate_model, training_text, written_text
from nutshell.recipe import resolve
from tiny_text import write_tiny

REST = """
[train]
batch_size = 4
seq_len = 20
budget = { steps = 1 }
[pack]
budget_bytes = 100_000
rules = [{ kind = "rtn", roles = ["matrix"] }]
[score]
stride = 10
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("calibrating"), REST)
    recipe = resolve(str(folder / "small.toml")).recipe
    model = LM(recipe.model, [recipe.final_schedule])
    model.init_weights(0)
    return model.requires_grad_(requires_grad=False), recipe, Dataset.open(folder / "data")


@pytest.fixture(scope="module")
def writer():
    """A model with definite opinions."""
    model, schedule = build_model(model_config(vocab_size=12), noise=0.5)
    return model.requires_grad_(requires_grad=False), schedule


def test_the_training_text_is_the_loaders_first_windows_under_another_seed(run):
    _, recipe, dataset = run
    loader = build_loader(recipe.train.loader, dataset.train, bos_id=dataset.tokenizer.bos_id, seed=SEED)
    expected, _ = loader.batch(0, batch_size=60, seq_len=20)
    batches = list(training_text(dataset, recipe, 60))
    assert [len(batch) for batch in batches] == [25, 25, 10]
    assert np.array_equal(np.concatenate(batches), expected)


def test_a_written_window_opens_a_document_and_goes_by_the_seed(writer):
    model, schedule = writer
    windows = np.concatenate(list(written_text(model, schedule, 70, 30)))
    assert windows.shape == (70, 30)
    assert (windows[:, 0] == BOS).all()
    assert len({tuple(row) for row in windows.tolist()}) == 70
    again = np.concatenate(list(written_text(model, schedule, 70, 30)))
    other = np.concatenate(list(written_text(model, schedule, 70, 30, seed=SEED + 1)))
    assert np.array_equal(windows, again)
    assert not np.array_equal(windows, other)


def test_what_a_model_writes_is_drawn_from_its_own_distribution(writer):
    model, schedule = writer
    windows = torch.from_numpy(np.concatenate(list(written_text(model, schedule, 600, 16))))
    log_p = model(windows, schedule)[:, :-1].double().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    loss = -log_p.gather(-1, windows[:, 1:, None])[..., 0]
    # The loss of a token drawn from p has the entropy of p as its mean; the standard error is of 9,000 draws.
    error = loss.std().item() / loss.numel() ** 0.5
    assert entropy.std() > 10 * error  # a text drawn by other contexts would be told apart
    assert abs((loss - entropy).mean().item()) < 4 * error


@pytest.mark.parametrize("source", ["training", "generated"])
def test_either_text_gives_statistics_of_the_names(run, source):
    model, recipe, dataset = run
    names = ["embedding", "blocks.1.mlps.0.up.weight"]
    found = calibrate_model(model, recipe, source=source, tokens=900, names=names, dataset=dataset)
    assert list(found) == names
    assert found["embedding"].row_weights.shape == (300,)
    plain = calibrate_model(model, recipe, source=source, tokens=900, names=names, dataset=dataset, metric="inputs")
    assert not torch.allclose(plain["embedding"].hessian, found["embedding"].hessian, rtol=1e-3)


def test_the_training_text_needs_its_data_set(run):
    model, recipe, dataset = run
    with pytest.raises(UsageError, match="give the data set with --data"):
        calibrate_model(model, recipe, source="training", tokens=100, names=["embedding"])
    small, _ = build_model(model_config())
    other = resolve("demo").recipe
    with pytest.raises(UsageError, match="its tokenizer has 300 tokens, the model 2048"):
        calibrate_model(small, other, source="training", tokens=100, names=["embedding"], dataset=dataset)
