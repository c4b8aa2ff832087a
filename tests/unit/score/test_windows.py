import msgspec
import pytest

from nutshell.errors import RecipeError
from nutshell.score.windows import Window, WindowPlan


def test_the_example_of_the_docstring():
    plan = WindowPlan(context=4, stride=2)
    assert list(plan.windows(7)) == [Window(0, 4, 0), Window(2, 6, 4), Window(4, 7, 6)]
    assert plan.kind == "sliding"


def test_num_inputs_counts_overlaps_again():
    # Of the module's docstring: windows of 4, 4 and 3 inputs.
    assert WindowPlan(context=4, stride=2).num_inputs(7) == 11
    assert WindowPlan(context=4, stride=4).num_inputs(7) == 7
    assert WindowPlan(context=4, stride=2).num_inputs(0) == 0


def test_disjoint():
    plan = WindowPlan(context=4, stride=4)
    assert list(plan.windows(9)) == [Window(0, 4, 0), Window(4, 8, 4), Window(8, 9, 8)]
    assert plan.kind == "disjoint"


def test_short_sequences():
    plan = WindowPlan(context=4, stride=2)
    assert list(plan.windows(0)) == []
    assert list(plan.windows(3)) == [Window(0, 3, 0)]
    assert list(plan.windows(4)) == [Window(0, 4, 0)]


def test_the_field_scores_its_tail_once():
    """2048/64 over 62,021,632 targets: the published evaluators score 1,984 targets of the tail again."""
    scored = sum(w.stop - w.score_from for w in WindowPlan(context=2048, stride=64).windows(62_021_632 // 64))
    assert scored == 62_021_632 // 64


@pytest.mark.parametrize("stride", [0, 5, -1])
def test_a_stride_that_would_skip_targets_is_refused(stride):
    with pytest.raises(RecipeError, match=f"stride {stride} with context 4: choose 1 <= stride <= context"):
        WindowPlan(context=4, stride=stride)


def test_written_without_a_kind_and_read_back():
    plan = WindowPlan(context=4, stride=2)
    text = msgspec.json.encode(plan)
    assert text == b'{"context":4,"stride":2}'
    assert msgspec.json.decode(text, type=WindowPlan) == plan
