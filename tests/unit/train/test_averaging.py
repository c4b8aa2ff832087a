import pytest
import torch

from models import model_config
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.train.averaging import EmaConfig, SwaConfig, lag_warning, share_warning


@pytest.fixture
def model():
    made = LM(model_config(), [model_config().depth.parse()])
    made.init_weights(0)
    return made


def walk(model, average, steps):
    """Change the weights step by step, and give the embedding as it was after each, from before the first on."""
    seen = [model.embedding.detach().clone()]
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.embedding.mul_(-0.9).add_(step)
        average.update(num_steps=step, progress=(step - 1) / steps)
        seen.append(model.embedding.detach().clone())
    return seen


def test_an_exponential_average_is_its_formula(model):
    average = EmaConfig(decay=0.5).build(ParamTable.of(model))
    expected, *later = walk(model, average, 7)
    for step, weights in enumerate(later, start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(average.weights()["embedding"], expected)
    assert average.count == 7


def test_a_mean_of_snapshots_is_their_mean(model):
    average = SwaConfig(start=0.5, every=3).build(ParamTable.of(model))
    seen = walk(model, average, 20)
    expected = torch.stack([seen[step] for step in (12, 15, 18)]).mean(dim=0)  # after step 11 half is spent
    torch.testing.assert_close(average.weights()["embedding"], expected)
    assert average.count == 3


def test_a_first_snapshot_leaves_nothing_of_the_initial_weights(model):
    average = SwaConfig(start=0.9, every=1).build(ParamTable.of(model))
    assert torch.equal(average.weights()["embedding"], walk(model, average, 10)[10])


def test_averages_stay_in_fp32_and_apart_from_the_weights(model):
    for config in (EmaConfig(decay=0.5), SwaConfig()):
        average = config.build(ParamTable.of(model))
        before = average.weights()["embedding"].clone()
        with torch.no_grad():
            model.embedding.add_(1.0)
        assert torch.equal(average.weights()["embedding"], before)
        assert before.dtype == torch.float32


@pytest.mark.parametrize(
    ("decay", "steps", "warned"),
    [
        (0.9965, 4550, False),  # 286 steps of openai/parameter-golf 1493
        (0.9965, 540, True),  # the same of 1726's short runs
    ],
)
def test_an_average_over_much_of_the_run_is_warned_of(decay, steps, warned):
    assert (lag_warning(EmaConfig(decay=decay), step_share=1 / steps) is not None) == warned
    assert lag_warning(SwaConfig(start=0.1), step_share=1 / steps) is None


def test_a_mean_over_much_of_the_run_is_so_however_long_the_run_is():
    assert share_warning(SwaConfig(start=0.8)) is None
    assert share_warning(EmaConfig(decay=0.9999)) is None
    found = share_warning(SwaConfig(start=0.5))
    assert found == (
        "swa averages over the last 50% of the run, more than 20%; its weights will lag behind: "
        "set its start to 0.8 or later"
    )
