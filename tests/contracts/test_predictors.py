"""What every model that wants a score must keep: normalised, causal, and the same one token at a time.

Add a model as a line in `MODELS`: a factory of something that is Predictor and Stepper at once, and the tolerance in
nats that its arithmetic needs between batch shapes.
"""

import typing
from types import SimpleNamespace

import numpy as np
import pytest

from models import ALL_TOGETHER, ATTENTION, VOCAB, build_model, model_config
from nutshell.artifact.load import Loaded
from nutshell.predict.predictor import ModelPredictor, ModelStepper
from score_twins import Order2, Uniform, Unigram


class Shipped(ModelPredictor, ModelStepper):
    """The model that artifacts hold, with every technique."""

    changes: typing.ClassVar = ALL_TOGETHER
    trained: typing.ClassVar = 16

    def __init__(self):
        model, schedule = build_model(model_config(**self.changes))
        tokenizer = SimpleNamespace(vocab_size=VOCAB)
        loaded = Loaded(model.eval(), schedule, tokenizer, context=self.trained, stride=4, recipe="")
        ModelStepper.__init__(self, loaded, context=16)


class ShippedWithScaledPositions(Shipped):
    """One whose positions depend on the window: on the one that it is scored with, not on how much of it is filled."""

    changes: typing.ClassVar = {"attention": {**ATTENTION, "rotary": {"scaled_beyond": 4}}}


class ShippedInLongerWindows(Shipped):
    """One that is scored with more context than it was trained with, so that its positions are rescaled."""

    trained: typing.ClassVar = 5


MODELS = {
    "uniform": (Uniform, 1e-6),
    "unigram": (Unigram, 1e-6),
    "order2": (Order2, 1e-6),
    "shipped": (Shipped, 2e-5),
    "shipped, with scaled positions": (ShippedWithScaledPositions, 2e-5),
    "shipped, in longer windows": (ShippedInLongerWindows, 2e-5),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param][0]()


@pytest.fixture
def atol(request):
    return MODELS[request.node.callspec.params["model"]][1]


@pytest.fixture
def inputs(model):
    """Three rows of few distinct tokens, so that a model with memory has something to remember."""
    high = min(6, model.vocab_size)
    return np.random.default_rng(0).integers(0, high, size=(3, min(12, model.context)))


def test_distributions_are_normalised(model, inputs):
    log_probs = np.asarray(model.log_probs(inputs), dtype=np.float64)
    assert log_probs.shape == (*inputs.shape, model.vocab_size)
    assert np.abs(np.log(np.exp(log_probs).sum(axis=-1))).max() <= 1e-5


@pytest.mark.parametrize("scored", [1, 5, 12])
def test_nats_are_of_the_last_targets_and_of_the_whole_distribution(model, inputs, scored, atol):
    targets = np.roll(inputs, -1, axis=1)[:, -scored:]
    nats = model.nats(inputs, targets)
    assert nats.dtype == np.float64
    log_probs = np.asarray(model.log_probs(inputs), dtype=np.float64)[:, -scored:]
    expected = -np.take_along_axis(log_probs, targets[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(nats, expected, rtol=0, atol=atol)


def test_the_future_and_padding_do_not_matter(model, inputs):
    before = np.asarray(model.log_probs(inputs))
    for position in range(1, inputs.shape[1]):
        flipped = inputs.copy()
        flipped[:, position:] = (flipped[:, position:] + 1) % model.vocab_size
        np.testing.assert_array_equal(np.asarray(model.log_probs(flipped))[:, :position], before[:, :position])


def test_rows_do_not_matter_to_each_other(model, inputs):
    before = np.asarray(model.log_probs(inputs))
    other = inputs.copy()
    other[1] = (other[1] + 1) % model.vocab_size
    np.testing.assert_array_equal(np.asarray(model.log_probs(other))[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("prefill", [1, 4])
def test_one_token_at_a_time_is_the_same_model(model, inputs, prefill, atol):
    expected = np.asarray(model.log_probs(inputs))
    model.begin(len(inputs))
    fed = [inputs[:, :prefill], *(inputs[:, t : t + 1] for t in range(prefill, inputs.shape[1]))]
    for position, tokens in enumerate(fed, start=prefill - 1):
        log_probs = model.feed(tokens)
        assert log_probs.dtype == np.float32
        np.testing.assert_allclose(log_probs, expected[:, position], rtol=0, atol=atol)


def test_dropped_rows_leave_the_others_alone(model, inputs, atol):
    expected = np.asarray(model.log_probs(inputs))
    model.begin(3)
    model.feed(inputs[:, :3])
    model.keep(np.array([0, 2]))
    np.testing.assert_allclose(model.feed(inputs[[0, 2], 3:4]), expected[[0, 2], 3], rtol=0, atol=atol)
    model.keep(np.array([1]))
    np.testing.assert_allclose(model.feed(inputs[[2], 4:5]), expected[[2], 4], rtol=0, atol=atol)


def test_beginning_again_forgets(model, inputs):
    model.begin(3)
    first = model.feed(inputs)
    model.begin(3)
    np.testing.assert_array_equal(model.feed(inputs), first)
