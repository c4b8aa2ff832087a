"""Writing text: what is fed, when the window slides, and that the draws are the model's own."""

import numpy as np
import pytest

from nutshell.errors import ArtifactError
from nutshell.score.generate import generate

VOCAB, CONTEXT, BOS = 12, 8, 1


class Recorder:
    """A stepper that remembers each window it was fed; it always expects the next number, sharply or not."""

    vocab_size, context = VOCAB, CONTEXT

    def __init__(self, sharpness=50.0, end_at=None):
        self.windows, self.sharpness, self.end_at = [], sharpness, end_at

    def begin(self, batch):
        assert batch == 1
        self.windows.append([])

    def feed(self, tokens):
        self.windows[-1] += tokens[0].tolist()
        assert len(self.windows[-1]) <= CONTEXT
        last = self.windows[-1][-1]
        successor = BOS if last == self.end_at else max(2, (last + 1) % VOCAB)
        logits = np.zeros((1, VOCAB), np.float32)
        logits[0, successor] = self.sharpness
        return logits - np.log(np.exp(logits).sum())

    def keep(self, rows):
        raise AssertionError("one row only")


def write(stepper, prompt, **changes):
    settings = {"bos_id": BOS, "max_tokens": 20, "temperature": 0.0, "seed": 0} | changes
    return generate(stepper, np.array(prompt), **settings).tolist()


def test_continues_the_prompt_for_as_many_tokens_as_asked():
    assert write(Recorder(), [3, 4], max_tokens=5) == [3, 4, 5, 6, 7, 8, 9]


def test_stops_at_the_documents_end():
    assert write(Recorder(end_at=6), [3, 4]) == [3, 4, 5, 6]


def test_a_prompt_that_fits_is_read_whole_and_later_windows_overlap_by_half():
    stepper = Recorder()
    written = write(stepper, [3, 4, 5, 6, 7], max_tokens=10)
    text = [BOS, *written]
    assert stepper.windows[0] == text[:8]
    for earlier, later in zip(stepper.windows, stepper.windows[1:], strict=False):
        assert later[:3] == earlier[-3:]  # and then the token that was drawn last
    assert sum(map(len, stepper.windows)) < 3 * len(text)


def test_a_prompt_longer_than_the_window_keeps_its_end():
    stepper = Recorder()
    write(stepper, list(range(2, 12)) * 3, max_tokens=1)
    assert stepper.windows[0] == [8, 9, 10, 11]


def test_temperature_draws_from_the_models_distribution_and_repeats_with_its_seed():
    flat = Recorder(sharpness=0.0)
    drawn = [write(flat, [3], max_tokens=1, temperature=1.0, seed=seed)[1:] for seed in range(300)]
    counts = np.bincount([token for tokens in drawn for token in tokens], minlength=VOCAB)
    assert sum(not tokens for tokens in drawn) > 5  # the end is drawn too
    assert (np.delete(counts, BOS) > 5).all()
    assert drawn == [write(flat, [3], max_tokens=1, temperature=1.0, seed=seed)[1:] for seed in range(300)]


def test_a_window_of_one_token_reads_the_last_one():
    class Narrow(Recorder):
        context = 1

    stepper = Narrow()
    assert write(stepper, [3, 4], max_tokens=3) == [3, 4, 5, 6, 7]
    assert [window for window in stepper.windows if window] == [[4], [5], [6]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_not_finite_write_nothing(temperature, value):
    class Broken(Recorder):
        def feed(self, tokens):
            return np.full_like(super().feed(tokens), value)

    with pytest.raises(ArtifactError, match="at token 3: its values are not finite"):
        write(Broken(), [3, 4], temperature=temperature)
