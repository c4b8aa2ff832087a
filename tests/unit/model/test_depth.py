import pytest
from hypothesis import given
from hypothesis import strategies as st

from nutshell.errors import RecipeError
from nutshell.model.depth import DepthSchedule


def blocks(text):
    return [visit.block for visit in DepthSchedule.parse(text).visits]


def test_the_lead_systems_schedule():
    schedule = DepthSchedule.parse("0-2 (3-5)x3 6-10")
    assert [visit.block for visit in schedule.visits] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [visit.iteration for visit in schedule.visits] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0]
    assert (schedule.num_blocks, schedule.num_layers) == (11, 17)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0]),
        ("0-3", [0, 1, 2, 3]),
        ("(0-2)x3", [0, 1, 2] * 3),
        ("0 (1 (2)x2)x2 3", [0, 1, 2, 2, 1, 2, 2, 3]),
        ("0-5 4 5 6-10", [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 10]),
        ("(0)x1 1", [0, 1]),
    ],
)
def test_the_notation(text, expected):
    assert blocks(text) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "at least one block"),
        ("0 2", "without a gap"),
        ("1-3", "without a gap"),
        ("0 (1", "written (blocks)xN"),
        ("0 (1)", "written (blocks)xN"),
        ("0 1)x2", "unexpected"),
        ("(0)x0", "at least once"),
        ("()x2", "written (blocks)xN"),
        ("3-1 0", "no range"),
        ("0 a", "unexpected"),
        ("(0)x100000000000", "more than"),
        ("0-99999999999", "no range"),
        ("((((0)x500)x500)x500)x500", "more than"),
    ],
)
def test_what_is_not_a_schedule_is_refused(text, part):
    with pytest.raises(RecipeError) as caught:
        DepthSchedule.parse(text)
    assert part in str(caught.value)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_iterations_count_earlier_visits(sequence):
    names = {block: index for index, block in enumerate(dict.fromkeys(sorted(set(sequence))))}
    sequence = [names[block] for block in sequence]
    visits = DepthSchedule.parse(" ".join(map(str, sequence))).visits
    assert [visit.block for visit in visits] == sequence
    assert [visit.iteration for visit in visits] == [sequence[:i].count(b) for i, b in enumerate(sequence)]
    assert len({visit.key for visit in visits}) == len(visits)


@given(st.integers(1, 40))
def test_mirror_skips_pair_the_halves_without_the_self_skip(num_layers):
    schedule = DepthSchedule.parse(f"0-{num_layers - 1}", "mirror")
    edges = [(skip.source.index, skip.target.index) for skip in schedule.skips]
    assert all(source + target == num_layers - 1 and target - source > 1 for source, target in edges)
    assert len(edges) == max(0, (num_layers - 1) // 2)
    assert [target for _, target in edges] == sorted(target for _, target in edges)


def test_listed_skips_are_kept_and_checked():
    schedule = DepthSchedule.parse("0-4", ((0, 4), (1, 3)))
    assert [(skip.source.index, skip.target.index) for skip in schedule.skips] == [(1, 3), (0, 4)]
    assert [skip.key for skip in schedule.skips_into(schedule.visits[4])] == ["0_0_to_4_0"]
    for bad in (((0, 1),), ((3, 1),), ((0, 5),), ((-1, 3),)):
        with pytest.raises(RecipeError, match=r"skip \["):
            DepthSchedule.parse("0-4", bad)
    with pytest.raises(RecipeError, match="listed twice"):
        DepthSchedule.parse("0-4", ((0, 4), (0, 4)))


def test_an_edge_keeps_its_name_when_the_schedule_changes():
    flat = {skip.key for skip in DepthSchedule.parse("0-4", "mirror").skips}
    looped = {skip.key for skip in DepthSchedule.parse("0 (1-3)x2 4", "mirror").skips}
    assert "0_0_to_4_0" in flat & looped


def edges(schedule):
    return {(skip.source.index, skip.target.index): skip.key for skip in schedule.skips}


@pytest.mark.parametrize("skips", ["none", "mirror", "stack", ((0, 7), (2, 5))])
@pytest.mark.parametrize("text", ["0 (1-2)x3 3", "0 1 2 1 2 1 2 3"])
def test_extending_a_schedule_by_nothing_changes_nothing(skips, text):
    trained = DepthSchedule.parse("0 (1-2)x3 3", skips)
    again = trained.extended(text)
    assert (again.visits, again.skips, again.text) == (trained.visits, trained.skips, text)


def test_more_loops_keep_the_trained_skips_and_give_the_new_visits_none():
    trained = DepthSchedule.parse("0 (1-2)x2 3", "mirror")
    assert edges(trained) == {(0, 5): "0_0_to_3_0", (1, 4): "1_0_to_2_1"}
    longer = trained.extended("0 (1-2)x4 3")
    assert longer.num_layers == 10
    assert edges(longer) == {(0, 9): "0_0_to_3_0", (1, 4): "1_0_to_2_1"}


def test_fewer_loops_lose_the_skips_of_the_visits_that_are_gone():
    shorter = DepthSchedule.parse("0 (1-2)x2 3", "mirror").extended("0-3")
    assert edges(shorter) == {(0, 3): "0_0_to_3_0"}


def test_an_extended_stack_joins_the_trained_pairs_not_the_pairs_that_the_rule_would_make():
    trained = DepthSchedule.parse("0-2 (3-5)x3 6-10", "stack")
    assert edges(trained) == {(7 - pop, 8 + pop): f"pop_{pop}" for pop in range(8)}
    longer = trained.extended("0-2 (3-5)x4 6-10")
    assert edges(longer) == {
        **{(7 - pop, 8 + pop): f"pop_{pop}" for pop in range(4)},  # both ends in the first three passes
        **{(7 - pop, 11 + pop): f"pop_{pop}" for pop in range(4, 8)},  # into blocks 6 to 9, after the fourth
    }
    assert edges(DepthSchedule.parse("0-2 (3-5)x4 6-10", "stack"))[(8, 11)] == "pop_1"  # the rule would feed 4_1 to 5_2


def test_a_skip_that_would_lead_backwards_is_left_out():
    trained = DepthSchedule.parse("0 1 2", ((0, 2),))
    assert edges(trained.extended("2 1 0")) == {}
