import pytest

from nutshell.config.loader import decode
from nutshell.errors import RecipeError
from nutshell.train.clock import Spent, WallClock, is_spent, progress
from nutshell.train.config import BudgetConfig, TrainConfig


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(BudgetConfig(seconds=20.0), 0.25), (BudgetConfig(steps=10), 0.4), (BudgetConfig(tokens=1000), 0.8)],
)
def test_progress_is_the_spent_fraction_of_the_budgets_own_unit(budget, expected):
    assert progress(budget, Spent(steps=4, tokens=800, seconds=5.0)) == expected


def test_a_time_budget_ends_with_the_step_nearest_to_it():
    budget = BudgetConfig(seconds=10.0)
    assert not is_spent(budget, Spent(seconds=9.4), step_seconds=1.0)
    assert is_spent(budget, Spent(seconds=9.6), step_seconds=1.0)


def test_a_step_budget_ends_exactly():
    assert not is_spent(BudgetConfig(steps=3), Spent(steps=2), step_seconds=9.0)
    assert is_spent(BudgetConfig(steps=3), Spent(steps=3), step_seconds=9.0)


def test_the_wall_clock_goes_on_from_what_was_spent():
    assert 100.0 <= WallClock(already=100.0).seconds() < 101.0


@pytest.mark.parametrize("table", [{}, {"steps": 1, "seconds": 2.0}, {"steps": 0}, {"seconds": -1.0}])
def test_a_budget_is_exactly_one_positive_number(table):
    with pytest.raises(RecipeError, match="budget"):
        decode(table, BudgetConfig, where="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": [{"until": 0.5, "schedule": "0"}, {"until": 0.4, "schedule": "0"}]}, "rising fractions"),
        ({"phases": [{"until": 1.5, "schedule": "0"}]}, "rising fractions"),
        ({"phases": [{"until": 1.0, "schedule": "0"}]}, "must end before 1"),
        ({"phases": [{"until": 0.5}]}, "changes nothing"),
        ({"phases": [{"until": 0.5, "batch_size": 0}]}, "batch_size of the phase until 0.5 must be positive"),
        ({"phases": [{"until": 1.0, "schedules": ["0", "0 0"], "seq_len": 8}]}, "changes schedules alone"),
        ({"averages": [{"kind": "ema", "decay": 1.0}]}, "decay must lie between"),
        ({"averages": [{"kind": "ema", "decay": 0.5}] * 2}, "different kinds"),
        ({"averages": [{"kind": "swa", "start": 1.0}]}, "start must be"),
        ({"averages": [{"kind": "swa", "every": 0}]}, "every must be"),
        ({"averages": [{"kind": "swa"}], "packed": "ema"}, "packed 'ema' is none of the averages"),
        ({"packed": "last"}, "has no effect without averages"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_senseless_training_settings_are_refused(change, message):
    table = {"budget": {"steps": 1}, "batch_size": 1, "seq_len": 1} | change
    with pytest.raises(RecipeError, match=message):
        decode(table, TrainConfig, where="x")
