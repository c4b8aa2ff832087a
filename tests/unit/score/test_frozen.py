import math
from itertools import pairwise

import numpy as np
import pytest

from nutshell.errors import DataError, LegalityError, RecipeError
from nutshell.score.frozen import score_documents, score_stream
from nutshell.score.windows import WindowPlan
from score_twins import VOCAB_SIZE, Order2, Uniform, Unigram, documents_of

DOCUMENTS = documents_of(b"hello hello hello world " * 2, b"", b"abc", b"the cat sat on the mat, the cat sat" * 2, b"x")
PLANS = [WindowPlan(context=16, stride=16), WindowPlan(context=16, stride=5), WindowPlan(context=7, stride=1)]


def by_hand(model, track, plan):
    """Nats of every target of a track, each from its own window, one forward each."""
    nats = np.full(len(track.targets), np.nan)
    for start, stop, score_from in plan.windows(len(track.targets)):
        for t in range(score_from, stop):
            nats[t] = -model.row(track.inputs[start : t + 1].tolist())[track.targets[t]]
    return nats


def test_uniform_costs_the_logarithm_of_the_vocabulary():
    score = score_documents(Uniform(), DOCUMENTS, PLANS[0])
    assert score.nats_per_token == pytest.approx(math.log(VOCAB_SIZE), rel=1e-14)
    assert score.tokens == DOCUMENTS.num_bytes + len(DOCUMENTS.ids)
    assert score.bpb == pytest.approx(math.log2(VOCAB_SIZE) * score.tokens / score.bytes, rel=1e-14)


def test_unigram_costs_its_cross_entropy_however_windows_lie():
    log_probs = Unigram().row([])
    expected = -sum(log_probs[track.targets].sum() for track in DOCUMENTS.tracks())
    for plan in PLANS:
        assert score_documents(Unigram(), DOCUMENTS, plan).total_nats == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_batches_change_nothing(plan, batch_tokens):
    model = Order2()
    expected = [by_hand(model, track, plan).sum() for track in DOCUMENTS.tracks()]
    score = score_documents(model, DOCUMENTS, plan, batch_tokens=batch_tokens)
    assert score.document_nats == pytest.approx(expected, rel=1e-13)
    assert (score.strategy.kind, score.strategy.unit, score.strategy.rules) == (plan.kind, "document", ("charge_end",))


@pytest.mark.parametrize("plan", PLANS)
def test_stream_windows_cross_documents(plan):
    model = Order2()
    score = score_stream(model, DOCUMENTS, plan, batch_tokens=50)
    assert score.total_nats == pytest.approx(by_hand(model, DOCUMENTS.stream(), plan).sum(), rel=1e-13)
    assert score.tokens == DOCUMENTS.num_targets - 1
    assert score.document_nats == ()
    assert (score.strategy.unit, score.strategy.rules) == ("stream", ("charge_bos",))


def test_more_context_helps_a_model_that_uses_it():
    scores = [score_documents(Order2(), DOCUMENTS, WindowPlan(context=16, stride=stride)).bpb for stride in (16, 8, 2)]
    assert scores == sorted(scores, reverse=True)


def test_batches_respect_their_limit_and_ask_for_scored_positions_only():
    shapes = []

    class Spy(Unigram):
        def nats(self, inputs, targets):
            shapes.append((inputs.shape, targets.shape))
            return super().nats(inputs, targets)

    score_documents(Spy(), DOCUMENTS, WindowPlan(context=16, stride=4), batch_tokens=64)
    assert all(rows * length <= 64 for (rows, length), _ in shapes)
    assert {(16, 16), (16, 4)} <= {(t, s) for (_, t), (_, s) in shapes}
    # At four windows a batch: five first windows, then 9 + 14 later ones of the two long documents.
    assert len(shapes) == 2 + 6


def test_padding_is_on_the_right_and_its_nats_are_dropped():
    """A model that breaks on padding: it charges a fortune wherever token 0 stands."""

    class Spy(Uniform):
        def nats(self, inputs, targets):
            return np.where(inputs == 0, 1e9, 1.0)[:, -targets.shape[1] :]

    score = score_documents(Spy(), DOCUMENTS, PLANS[0], batch_tokens=10_000)
    assert score.nats_per_token == 1.0


def assert_runs_once(seen, total):
    """A progress that rises from call to call and ends at its one total."""
    assert seen[-1] == (total, total)
    assert {of for _, of in seen} == {total}
    assert all(left[0] < right[0] for left, right in pairwise(seen))


def inputs_of(tracks, plan):
    return sum(stop - start for track in tracks for start, stop, _ in plan.windows(len(track.targets)))


def test_progress_counts_the_tokens_read_to_the_end():
    seen = []
    score_documents(Uniform(), DOCUMENTS, PLANS[1], batch_tokens=50, progress=lambda *done: seen.append(done))
    assert len(seen) == 8
    assert_runs_once(seen, inputs_of(DOCUMENTS.tracks(), PLANS[1]))


def test_some_documents_are_a_subset():
    whole = score_documents(Order2(), DOCUMENTS, PLANS[1])
    some = score_documents(Order2(), DOCUMENTS.take([3, 0]), PLANS[1])
    assert some.metric == "subset_bpb"
    assert some.coverage == pytest.approx((48 + 70) / DOCUMENTS.num_bytes)
    assert some.total_nats == pytest.approx(whole.claimed_nats((0, 3)), rel=1e-13)


def test_a_context_beyond_the_model_is_refused():
    with pytest.raises(RecipeError, match="scoring context 17 is longer than the model's 16: lower it"):
        score_documents(Uniform(context=16), DOCUMENTS, WindowPlan(context=17, stride=17))


def test_a_text_of_another_vocabulary_is_refused():
    model = Uniform()
    model.vocab_size = 300
    with pytest.raises(DataError, match="vocabulary of 257 tokens, the model one of 300"):
        score_documents(model, DOCUMENTS, PLANS[0])


def test_a_model_that_is_no_distribution_is_refused():
    class Broken(Uniform):
        def nats(self, inputs, targets):
            return np.where(targets == ord("c"), np.nan, 1.0)

    with pytest.raises(LegalityError, match="nan is not -log of a probability"):
        score_documents(Broken(), DOCUMENTS, PLANS[0])
