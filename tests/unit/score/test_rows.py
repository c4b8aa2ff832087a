import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutshell.errors import BudgetError
from nutshell.score.ledger import Strategy
from nutshell.score.means import Budget, Means
from nutshell.score.rows import Phases, RowPlan, StepRule, score_in_rows
from nutshell.score.windows import WindowPlan
from score_twins import VOCAB_SIZE, documents_of
from teams import score_together

DOCUMENTS = documents_of(b"hello hello hello world " * 2, b"", b"abc", b"the cat sat on the mat, the cat sat" * 2, b"x")
PLAN = RowPlan(context=12, steps=(StepRule(targets=2, up_to=5), StepRule(targets=7)), rows=2, group_targets=30)


class Counting:
    """Each row counts its own tokens; what lies in its window before the first scored target counts twice."""

    vocab_size, context = VOCAB_SIZE, 16

    def __init__(self):
        self.log, self.widths = [], []

    def begin(self, rows):
        self.counts = np.ones((rows, VOCAB_SIZE))
        self.log.append(("begin", rows))

    def nats(self, inputs, targets):
        assert len(inputs) == len(targets) == len(self.counts)
        self.widths.append((inputs.shape, targets.shape))
        before = inputs[:, : inputs.shape[1] - targets.shape[1]]
        counts = self.counts.copy()
        for row, own in enumerate(before):
            np.add.at(counts[row], own, 1)
        self.log.append(("nats", targets.shape))
        return -np.log(np.take_along_axis(counts, targets, axis=1) / counts.sum(axis=1, keepdims=True))

    def observe(self, scored):
        assert len(scored) == len(self.counts)
        for counts, own in zip(self.counts, scored, strict=True):
            np.add.at(counts, own.targets, 1)
        self.log.append(("observe", [len(own.targets) for own in scored]))

    def keep(self, rows):
        self.counts = self.counts[rows]
        self.log.append(("keep", rows.tolist()))


def score(learner=None, documents=DOCUMENTS, plan=PLAN, **kwargs):
    kwargs.setdefault("means", Means())
    strategy = Strategy.of(WindowPlan(context=plan.context, stride=plan.steps[-1].targets), "document", kind="rows")
    return score_in_rows(learner or Counting(), documents, plan, strategy, **kwargs)


def by_hand(track, plan):
    """One document alone: its windows, its counts, nothing else."""
    step = next(rule.targets for rule in plan.steps if rule.up_to is None or len(track.targets) <= rule.up_to)
    counts, nats = np.ones(VOCAB_SIZE), 0.0
    for first in range(0, len(track.targets), step):
        window = counts.copy()
        for token in track.inputs[max(0, first + step - plan.context) : first]:
            window[token] += 1
        for token in track.targets[first : first + step]:
            nats -= np.log(window[token] / window.sum())
        for token in track.targets[first : first + step]:
            counts[token] += 1
    return nats


@pytest.mark.parametrize("rows", [1, 2, 64])
@pytest.mark.parametrize("group_targets", [1, 30, 10_000])
def test_each_document_is_scored_as_if_it_were_alone(rows, group_targets):
    plan = RowPlan(context=12, steps=PLAN.steps, rows=rows, group_targets=group_targets)
    result = score(plan=plan)
    expected = [by_hand(track, plan) for track in DOCUMENTS.tracks()]
    assert result.document_nats == pytest.approx(expected, rel=1e-13)
    assert result.tokens == DOCUMENTS.num_targets


def test_a_step_is_scored_before_it_is_learned_and_the_last_is_not_learned():
    learner = Counting()
    score(learner, documents_of(b"abcdefgh"))  # nine targets, in steps of seven
    assert learner.log == [("begin", 1), ("nats", (1, 7)), ("observe", [7]), ("nats", (1, 2))]


def test_documents_leave_their_batch_as_they_end():
    learner = Counting()
    score(learner, documents_of(b"a" * 17, b"b" * 9), RowPlan(context=12, steps=PLAN.steps, rows=4))
    assert learner.log == [
        ("begin", 2),
        *[("nats", (2, 7)), ("observe", [7, 7])],
        *[("nats", (2, 7)), ("observe", [7, 3])],
        *[("keep", [0]), ("nats", (1, 4))],
    ]
    assert learner.widths == [((2, 7), (2, 7)), ((2, 12), (2, 7)), ((1, 9), (1, 4))]


def test_documents_of_another_step_are_in_another_batch():
    learner = Counting()
    score(learner, documents_of(b"abc", b"a" * 17), RowPlan(context=12, steps=PLAN.steps, rows=4))
    assert [what for what, _ in learner.log].count("begin") == 2
    assert ("nats", (1, 2)) in learner.log


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    steps=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    context=st.integers(10, 16),
    rows=st.integers(1, 4),
    group=st.integers(1, 60),
    size=st.integers(1, 4),
)
def test_each_target_is_scored_once_on_any_number_of_processes(lengths, steps, context, rows, group, size):
    documents = documents_of(*((b"abcdefg" * 6)[:length] for length in lengths), b"end")
    rules = (StepRule(targets=steps[0], up_to=9), StepRule(targets=steps[1]))
    plan = RowPlan(context=context, steps=rules, rows=rows, group_targets=group)
    scores = score_together(size, lambda team: score(documents=documents, plan=plan, means=Means(team=team)))
    assert [each.document_nats for each in scores] == [score(documents=documents, plan=plan).document_nats] * size


@given(st.integers(1, 10), st.integers(10, 30), st.integers(0, 100))
def test_windows_score_each_target_once_in_order_within_the_context(step, context, num_targets):
    plan = RowPlan(context=context, steps=(StepRule(targets=step),))
    windows = list(plan.windows(num_targets))
    assert [t for w in windows for t in range(w.score_from, w.stop)] == list(range(num_targets))
    assert all(0 <= w.start <= w.score_from < w.stop <= w.start + context for w in windows)
    assert plan.num_inputs(num_targets) == sum(w.stop - w.start for w in windows)


def test_between_phases_all_is_told_that_was_scored_since_the_last_in_the_order_of_the_text():
    documents = documents_of(*[b"abcdefghi"] * 8)  # ten targets each
    told = []
    plan = RowPlan(context=12, steps=(StepRule(targets=5),), rows=2, group_targets=20)
    score(documents=documents, plan=plan, phases=Phases(2, lambda chunk, progress: told.append((chunk, progress))))
    [(chunk, progress)] = told
    assert progress == 0.5
    assert [scored.targets.tolist() for scored in chunk] == [t.targets.tolist() for t in documents.tracks()[:4]]
    told.clear()
    score(documents=documents, plan=plan, phases=Phases(4, lambda chunk, progress: told.append((len(chunk), progress))))
    assert told == [(2, 0.25), (2, 0.5), (2, 0.75)]


def test_one_phase_teaches_nobody():
    score(phases=Phases(1, lambda *_: pytest.fail("nothing is left to score")))


def test_a_budget_ends_between_groups_and_keeps_whole_documents():
    clock = itertools.count().__next__
    result = score(means=Means(budget=Budget(3, clock)))
    assert 0 < result.documents < len(DOCUMENTS.ids)
    assert result.metric == "subset_bpb"
    assert result.document_ids == tuple(range(result.documents))
    with pytest.raises(BudgetError, match="too small for one chunk"):
        score(means=Means(budget=Budget(1.5, itertools.count().__next__)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": ()}, "the last rule must have no up_to"),
        ({"steps": (StepRule(targets=2, up_to=5),)}, "the last rule must have no up_to"),
        ({"steps": (StepRule(targets=2), StepRule(targets=3))}, "have no effect"),
        ({"steps": (StepRule(targets=13),)}, "13 targets are more than a window of 12"),
        ({"steps": (StepRule(targets=3),), "rows": 0}, "at least 1"),
    ],
)
def test_a_plan_that_means_nothing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RowPlan(**{"context": 12, **change})
    with pytest.raises(ValueError, match="at least 1"):
        StepRule(targets=0)
