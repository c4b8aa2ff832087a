from collections import Counter
from itertools import pairwise

import pytest

from models import SMALL
from nutshell.config.loader import decode, to_table
from nutshell.errors import RecipeError
from nutshell.model.depth import DepthSchedule
from nutshell.recipe import Recipe
from nutshell.train.config import PhaseConfig
from nutshell.train.phases import Phase, draw, phase_at

ONCE, TWICE, THRICE = "0-3", "0 (1-2)x2 3", "0 (1-2)x3 3"


def recipe(phases):
    table = {
        "about": "test",
        "model": SMALL,
        "train": {"budget": {"steps": 1}, "batch_size": 1, "seq_len": 16, "phases": phases},
        "pack": {"budget_bytes": 40_000, "rules": []},
        "score": {"stride": 8},
    }
    return decode(table, Recipe, where="test")


def texts(made):
    return [(phase.until, [schedule.text for schedule in phase.schedules]) for phase in made.phases]


def test_phases_are_looked_up_by_progress():
    phases = [Phase(until, (DepthSchedule.parse("0"),), 1, 1) for until in (0.3, 0.6, 1.0)]
    assert [phase_at(p, phases) for p in (0.0, 0.29, 0.3, 0.6, 1.0)] == [0, 0, 1, 2, 2]


def test_draws_are_a_function_of_seed_and_step_and_even():
    phase = Phase(1.0, tuple(map(DepthSchedule.parse, (ONCE, TWICE, THRICE))), 1, 1)
    steps = range(3000)
    drawn = [draw(phase, seed=7, step=step).text for step in steps]
    assert drawn[::-1] == [draw(phase, seed=7, step=step).text for step in reversed(steps)]
    assert drawn != [draw(phase, seed=8, step=step).text for step in steps]
    # 1000 each but for chance, whose standard deviation is 26; and no draw tells of the next.
    assert all(abs(count - 1000) < 110 for count in Counter(drawn).values())
    assert all(abs(count - 333) < 75 for count in Counter(pairwise(drawn)).values())


def test_a_phase_of_one_schedule_draws_it():
    only = DepthSchedule.parse(TWICE)
    assert {draw(Phase(1.0, (only,), 1, 1), seed=0, step=step) for step in range(9)} == {only}


def test_the_models_own_schedule_runs_last():
    assert texts(recipe([])) == [(1.0, [TWICE])]
    assert texts(recipe([{"until": 0.4, "schedule": ONCE}])) == [(0.4, [ONCE]), (1.0, [TWICE])]
    made = recipe([{"until": 0.4, "schedules": [ONCE, THRICE]}])
    assert texts(made) == [(0.4, [ONCE, THRICE]), (1.0, [TWICE])]
    assert [schedule.text for schedule in made.schedules] == [ONCE, THRICE, TWICE]


def test_the_last_stretch_may_be_drawn_too():
    made = recipe([{"until": 0.4, "schedule": ONCE}, {"until": 1.0, "schedules": [TWICE, THRICE]}])
    assert texts(made) == [(0.4, [ONCE]), (1.0, [TWICE, THRICE])]
    assert made.final_schedule.text == TWICE
    assert recipe([{"until": 1.0, "schedules": ["0 1 2 1 2 3", THRICE]}]).phases[0].schedules[0].text == "0 1 2 1 2 3"
    assert decode(to_table(made), Recipe, where="test") == made


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"schedules": []}, r"must be two or more that differ, got \[\]; one alone is written as schedule"),
        ({"schedules": ["0-1"]}, "must be two or more that differ, got"),
        ({"schedules": ["0-1", "0 1"]}, "must be two or more that differ"),
        ({"schedules": ["0-1", "0 1", "0"]}, "must be two or more that differ"),
        ({"schedules": ["0-1", "0 2"]}, "without a gap"),
        ({"schedules": ["0-1", "0"], "schedule": "0"}, "at most one of schedule and schedules"),
        ({}, "changes nothing: give it a schedule, schedules or a size"),
    ],
)
def test_a_phase_that_means_nothing_is_refused(phase, message):
    with pytest.raises(RecipeError, match=message):
        decode({"until": 0.5} | phase, PhaseConfig, where="x")


def test_a_recipe_refuses_blocks_that_do_not_exist():
    with pytest.raises(RecipeError, match="'0-4' runs 5 blocks, the model has 4"):
        recipe([{"until": 0.5, "schedules": [ONCE, "0-4"]}])


def test_a_recipe_refuses_never_to_train_what_it_packs():
    with pytest.raises(RecipeError, match=r"lasts to the end without '0 \(1-2\)x2 3', which is packed"):
        recipe([{"until": 1.0, "schedules": [ONCE, THRICE]}])


def test_a_phase_that_runs_as_the_next_one_does_is_refused():
    for phases in ([{"until": 0.4, "schedule": TWICE}], [{"until": 0.4, "seq_len": 16}]):
        with pytest.raises(RecipeError, match=r"the phase until 0\.4 has no effect: the next runs as it does"):
            recipe(phases)


def test_what_a_phase_leaves_out_is_the_runs_own():
    (first, last) = recipe([{"until": 0.4, "seq_len": 8}]).phases
    assert (first.batch_size, first.seq_len, first.batch_tokens) == (1, 8, 8)
    assert (last.batch_size, last.seq_len, last.schedules) == (1, 16, first.schedules)
