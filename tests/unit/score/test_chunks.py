import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutshell.errors import BudgetError, LegalityError
from nutshell.score.chunks import score_in_chunks
from nutshell.score.frozen import score_documents, score_stream
from nutshell.score.ledger import ScoreLedger, Strategy
from nutshell.score.means import Alone, Budget, Means
from nutshell.score.windows import WindowPlan
from score_twins import Order2, Unigram, documents_of
from teams import score_together

DOCUMENTS = documents_of(b"hello hello hello world " * 2, b"", b"abc", b"the cat sat on the mat, the cat sat" * 2, b"x")
PLAN = WindowPlan(context=16, stride=5)


def score(model, plan=PLAN, unit="document", documents=DOCUMENTS, **kwargs):
    kwargs.setdefault("means", Means())
    return score_in_chunks(model, documents, plan, Strategy.of(plan, unit), **kwargs)


class Counting(Unigram):
    """Learns how often each token came: what it was told, and what it had been asked before that."""

    def __init__(self):
        super().__init__()
        self.counts = np.ones(self.vocab_size)
        self.told, self.log = [], []

    def row(self, seen):
        return np.log(self.counts / self.counts.sum())

    def nats(self, inputs, targets):
        self.log.append(("scored", targets.size))
        return super().nats(inputs, targets)

    def observe(self, chunk, progress):
        self.told.append((chunk, progress))
        self.log.append(("learned", sum(len(scored.targets) for scored in chunk)))
        for scored in chunk:
            np.add.at(self.counts, scored.targets, 1)


@pytest.mark.parametrize("unit", ["document", "stream"])
@pytest.mark.parametrize("chunk_targets", [1, 7, 20, 10_000])
def test_a_learner_is_told_every_target_but_those_of_the_last_chunk_once_and_in_order(unit, chunk_targets):
    model = Counting()
    score(model, unit=unit, chunk_targets=chunk_targets, learn=model.observe)
    tracks = DOCUMENTS.tracks() if unit == "document" else [DOCUMENTS.stream()]
    targets = np.concatenate([track.targets for track in tracks])
    inputs = np.concatenate([track.inputs for track in tracks])
    told = [scored for chunk, _ in model.told for scored in chunk]
    learned = sum(len(scored.targets) for scored in told)
    assert np.array_equal(np.concatenate([targets[:0], *(scored.targets for scored in told)]), targets[:learned])
    assert np.array_equal(np.concatenate([inputs[:0], *(scored.inputs for scored in told)]), inputs[:learned])
    assert learned < len(targets)
    assert len(targets) - learned <= chunk_targets + PLAN.context
    assert [progress for _, progress in model.told] == sorted({progress for _, progress in model.told})


def test_scoring_goes_before_learning_and_by_hand_gives_the_same():
    """Chunks of seven targets of a document whose windows score one target each."""
    plan = WindowPlan(context=4, stride=1)
    documents = documents_of(b"abracadabra abracadabra")
    model = Counting()
    total = score(model, plan, documents=documents, chunk_targets=7, learn=model.observe).total_nats
    counts, expected = np.ones(257), 0.0
    targets = documents.tracks()[0].targets
    for first in range(0, len(targets), 7):
        chunk = targets[first : first + 7]
        expected -= np.log(counts[chunk] / counts.sum()).sum()
        np.add.at(counts, chunk, 1)
    assert total == pytest.approx(expected, rel=1e-13)
    scored = learned = 0
    for what, amount in model.log:
        scored, learned = scored + amount * (what == "scored"), learned + amount * (what == "learned")
        assert learned <= scored


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    context=st.integers(1, 20),
    stride=st.integers(1, 20),
    chunk=st.integers(1, 50),
    size=st.integers(1, 4),
    unit=st.sampled_from(["document", "stream"]),
)
def test_each_target_is_scored_once_however_it_is_cut(lengths, context, stride, chunk, size, unit):
    """The ledger refuses a target scored twice or never; all processes end with one score."""
    documents = documents_of(*(bytes(range(97, 97 + 26)) * 2 for _ in lengths), b"end")
    documents = documents_of(*((b"abcdefg" * 6)[:length] for length in lengths), b"end")
    plan = WindowPlan(context=context, stride=min(stride, context))
    scores = score_together(
        size,
        lambda team: score(
            Unigram(context=20), plan, unit, documents, chunk_targets=chunk, means=Means(batch_tokens=64, team=team)
        ),
    )
    expected = -sum(Unigram().row([])[track.targets].sum() for track in documents.tracks())
    if unit == "stream":
        expected += Unigram().row([])[256]  # nothing closes the last document
    for each in scores:
        assert each == scores[0]
        assert each.total_nats == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unit", ["document", "stream"])
def test_two_and_four_processes_give_the_same_to_the_bit(unit):
    alone = score(Order2(), unit=unit, chunk_targets=20)
    for size in (2, 4):
        shared = score_together(
            size, lambda team: score(Order2(), unit=unit, chunk_targets=20, means=Means(batch_tokens=40, team=team))
        )
        assert [each.total_nats for each in shared] == [alone.total_nats] * size


def test_a_frozen_score_is_the_same_in_any_chunks():
    by_document, stream = score_documents(Order2(), DOCUMENTS, PLAN), score_stream(Order2(), DOCUMENTS, PLAN)
    for chunk in (1, 13, 64):
        assert score(Order2(), chunk_targets=chunk) == by_document
        assert score(Order2(), unit="stream", chunk_targets=chunk) == stream


def test_a_learner_that_learns_nothing_gets_the_frozen_score_to_the_bit():
    told = []
    frozen = score(Order2(), chunk_targets=9)
    assert score(Order2(), chunk_targets=9, learn=lambda *chunk: told.append(chunk)) == frozen
    assert told


def test_a_budget_scores_the_text_up_to_where_time_ends_and_says_how_much_that_is():
    clock = itertools.count().__next__  # a second from call to call: made, begun, and one a chunk
    result = score(Unigram(), chunk_targets=10, means=Means(budget=Budget(6, clock)))
    whole = score(Unigram(), chunk_targets=10)
    tracks = DOCUMENTS.tracks()
    assert result.metric == "subset_bpb"
    assert whole.metric == "bpb"
    prefix = np.concatenate([track.targets for track in tracks])[: result.tokens]
    lengths = np.concatenate([track.byte_lengths for track in tracks])[: result.tokens]
    assert 0 < result.tokens < whole.tokens
    assert result.bytes == lengths.sum()
    assert result.coverage == lengths.sum() / whole.bytes
    assert result.total_nats == pytest.approx(-Unigram().row([])[prefix].sum(), rel=1e-12)
    complete = sum(np.cumsum([len(track.targets) for track in tracks]) <= result.tokens)
    assert result.document_ids == whole.document_ids[:complete]
    assert result.document_nats == whole.document_nats[:complete]


def test_a_budget_with_time_for_all_changes_nothing():
    assert score(Order2(), means=Means(budget=Budget(1e9))) == score(Order2())


def test_a_budget_too_small_for_one_chunk_is_refused():
    clock = itertools.count(step=10).__next__
    with pytest.raises(BudgetError, match="too small for one chunk"):
        score(Unigram(), chunk_targets=10, means=Means(budget=Budget(15, clock)))


def test_without_a_budget_a_score_of_less_than_all_is_refused():
    ledger = ScoreLedger(DOCUMENTS.tracks())
    ledger.commit(0, 0, np.ones(3))
    with pytest.raises(LegalityError, match="sequence 0, target 3: never scored"):
        ledger.finish(DOCUMENTS, Strategy.of(PLAN, "document"))
    assert ledger.finish(DOCUMENTS, Strategy.of(PLAN, "document"), whole=False).tokens == 3


@pytest.mark.parametrize(("track", "start"), [(0, 5), (1, 0), (4, 0)])
def test_a_gap_is_refused_even_where_scoring_may_stop_early(track, start):
    ledger = ScoreLedger(DOCUMENTS.tracks())
    ledger.commit(0, 0, np.ones(3))
    ledger.commit(track, start, np.ones(1))
    with pytest.raises(LegalityError, match="sequence 0, target 3: never scored"):
        ledger.finish(DOCUMENTS, Strategy.of(PLAN, "document"), whole=False)


def test_only_what_was_charged_can_be_learned():
    ledger = ScoreLedger(DOCUMENTS.tracks())
    ledger.commit(0, 0, np.ones(4))
    track = DOCUMENTS.tracks()[0]
    scored = ledger.scored(0, 1, 4)
    assert np.array_equal(scored.inputs, track.inputs[1:4])
    assert np.array_equal(scored.targets, track.targets[1:4])
    with pytest.raises(LegalityError, match="sequence 0, target 4: learned before scored"):
        ledger.scored(0, 1, 5)


def test_alone_is_a_team():
    assert Alone().agree(3.0) == 3.0
    assert np.array_equal(Alone().add_up(np.ones(2)), np.ones(2))
