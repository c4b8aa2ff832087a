"""Every target exactly once, in order, and never more context than allowed, for any length, context and stride."""

from itertools import islice, pairwise

from hypothesis import given
from hypothesis import strategies as st

from nutshell.score.windows import WindowPlan


@st.composite
def plans(draw):
    context = draw(st.integers(1, 40))
    return WindowPlan(context=context, stride=draw(st.integers(1, context)))


@given(plans(), st.integers(0, 200))
def test_each_target_is_scored_once_and_in_order(plan, num_targets):
    windows = list(plan.windows(num_targets))
    assert [t for w in windows for t in range(w.score_from, w.stop)] == list(range(num_targets))
    assert all(w.score_from < w.stop for w in windows), "no window scores nothing"


@given(plans(), st.integers(0, 200))
def test_context_is_bounded_from_both_sides(plan, num_targets):
    for window in plan.windows(num_targets):
        assert 0 <= window.start <= window.score_from
        assert window.stop - window.start <= plan.context
        if window.start > 0:
            assert window.score_from - window.start == plan.context - plan.stride


@given(st.integers(1, 40), st.integers(0, 200))
def test_stride_of_a_whole_context_is_disjoint(context, num_targets):
    windows = list(WindowPlan(context=context, stride=context).windows(num_targets))
    assert all(w.score_from == w.start for w in windows)
    assert all(left.stop == right.start for left, right in pairwise(windows))
    assert all(w.stop - w.start == context for w in windows[:-1])


@given(plans(), st.integers(0, 100), st.integers(0, 100))
def test_what_comes_later_does_not_move_a_window(plan, num_targets, more):
    """A decoder lays its windows before it knows how long the document is."""
    short = list(plan.windows(num_targets))
    for now, later in zip(short, plan.windows(num_targets + more), strict=False):
        assert (now.start, now.score_from) == (later.start, later.score_from)
    assert [w[::2] for w in short] == [w[::2] for w in islice(plan.unbounded(), len(short))]
