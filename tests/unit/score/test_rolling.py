"""Rolling, with a reader that remembers whole windows: it must be handed each token once, and all of every window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutshell.errors import DataError, RecipeError
from nutshell.score import rolling
from nutshell.score.frozen import score_documents, score_stream
from nutshell.score.means import Means
from nutshell.score.rolling import score_rolling
from nutshell.score.windows import WindowPlan
from score_twins import Order2, documents_of
from teams import score_together

DOCUMENTS = documents_of(b"hello hello hello world " * 2, b"", b"abc", b"the cat sat on the mat, the cat sat" * 2, b"x")
PLANS = [WindowPlan(context=16, stride=16), WindowPlan(context=16, stride=5), WindowPlan(context=7, stride=1)]


class Remembering(Order2):
    """Looks at what it was handed as new, and remembers the rest itself."""

    def begin(self, rows):
        self.seen = np.zeros((rows, 0), dtype=np.int64)

    def nats(self, inputs, targets):
        assert len(inputs) == len(targets) == len(self.seen)
        new = targets.shape[1]
        remembered = inputs.shape[1] - new
        held = self.seen[:, self.seen.shape[1] - remembered :]
        np.testing.assert_array_equal(held, inputs[:, :remembered])
        self.seen = np.concatenate([self.seen, inputs[:, remembered:]], axis=1)
        self.calls.append(targets.shape)
        return super().nats(np.concatenate([held, inputs[:, remembered:]], axis=1), targets)

    def observe(self, scored):
        pass

    def keep(self, rows):
        self.seen = self.seen[rows]

    def __init__(self):
        super().__init__()
        self.calls = []


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_a_reader_of_windows_alone_scores_as_in_sliding_ones(plan, batch_tokens):
    rolling = score_rolling(Remembering(), DOCUMENTS, plan, means=Means(batch_tokens=batch_tokens))
    assert rolling.document_nats == pytest.approx(score_documents(Order2(), DOCUMENTS, plan).document_nats, rel=1e-13)
    assert (rolling.strategy.kind, rolling.strategy.unit, rolling.strategy.rules) == (
        "rolling",
        "document",
        ("charge_end",),
    )
    assert (rolling.strategy.context, rolling.strategy.stride) == (plan.context, plan.stride)


@pytest.mark.parametrize("plan", PLANS)
def test_a_stream_is_one_row(plan):
    reader = Remembering()
    rolling = score_rolling(reader, DOCUMENTS, plan, unit="stream", means=Means())
    assert rolling.total_nats == pytest.approx(score_stream(Order2(), DOCUMENTS, plan).total_nats, rel=1e-13)
    assert rolling.document_nats == ()
    assert sum(rows * new for rows, new in reader.calls) == DOCUMENTS.num_targets - 1


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    context=st.integers(1, 16),
    data=st.data(),
    batch_tokens=st.integers(1, 70),
    size=st.integers(1, 3),
)
def test_each_target_is_scored_once_and_each_token_read_once(lengths, context, data, batch_tokens, size):
    documents = documents_of(*((b"abcabd" * 7)[:length] for length in lengths), b"end")
    plan = WindowPlan(context=context, stride=data.draw(st.integers(1, context)))
    expected = score_documents(Order2(), documents, plan)
    progress = []
    readers = [Remembering() for _ in range(size)]

    def score(team):
        means = Means(batch_tokens=batch_tokens, team=team, progress=lambda *done: progress.append(done))
        return score_rolling(readers[team.rank], documents, plan, means=means)

    for found in score_together(size, score):
        assert found.document_nats == pytest.approx(expected.document_nats, rel=1e-13)
        assert found.tokens == documents.num_targets
    assert max(progress) == (documents.num_targets, documents.num_targets)
    read = sum(rows * new for reader in readers for rows, new in reader.calls)
    assert documents.num_targets <= read, "padding may be read besides"


def test_each_token_is_read_once():
    reader = Remembering()
    score_rolling(reader, documents_of(b"abcdefghijk"), WindowPlan(context=6, stride=4), means=Means())
    assert reader.calls == [(1, 6), (1, 4), (1, 2)]


def test_a_call_has_as_many_rows_as_strides_fit_a_batch_and_windows_what_may_be_remembered(monkeypatch):
    for most, batch_tokens, rows in ((80, 12, 3), (80, 1, 1), (40, 12, 2), (8, 12, 1)):
        monkeypatch.setattr(rolling, "MOST_REMEMBERED", most)
        reader = Remembering()
        plan = WindowPlan(context=16, stride=4)
        score_rolling(reader, DOCUMENTS, plan, means=Means(batch_tokens=batch_tokens))
        assert max(count for count, _ in reader.calls) == rows


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(RecipeError, match="scoring context 17 is longer than the model's 16: lower it"):
        score_rolling(Remembering(), DOCUMENTS, WindowPlan(context=17, stride=4), means=Means())
    reader = Remembering()
    reader.vocab_size = 256
    with pytest.raises(DataError, match="the text has a vocabulary of 257 tokens, the model one of 256"):
        score_rolling(reader, DOCUMENTS, PLANS[0], means=Means())
