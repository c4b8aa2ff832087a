import pytest

from nutshell.errors import BudgetError
from nutshell.score.means import Alone, Budget, Means


class Clock:
    def __init__(self, *times):
        self.times = list(times)

    def __call__(self):
        return self.times.pop(0)


def test_a_budget_allows_what_the_longest_chunk_so_far_leaves_time_for():
    told = []
    clock = Clock(0, 10, 40, 50, 70.5)  # made, loaded, and after each of three chunks
    budget = Budget(100, clock, told.append)
    budget.begin()
    assert budget.allows_more(5, 50, Alone())
    assert budget.forecast_seconds == 40 + 30 * 45 / 5
    assert budget.allows_more(10, 50, Alone())
    assert not budget.allows_more(15, 50, Alone()), "another 30 s would end at 100.5"
    assert told == [budget.forecast_seconds] == [310]


def test_a_budget_that_the_first_chunk_uses_up_says_what_it_would_have_taken():
    budget = Budget(20, Clock(0, 1, 21))
    budget.begin()
    with pytest.raises(BudgetError, match=r"^budget of 20 s: too small for one chunk of 4 targets, .*21\.0 s.* 41 s$"):
        budget.allows_more(4, 8, Alone())


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_budget_is_a_number_of_seconds(seconds):
    with pytest.raises(BudgetError, match="above 0"):
        Budget(seconds)


def test_all_processes_go_by_the_clock_of_the_first():
    class Second(Alone):
        rank, size = 1, 2

        def agree(self, value):
            return 50.0

    budget = Budget(60, Clock(0, 0, 1))
    budget.begin()
    assert not budget.allows_more(1, 2, Second()), "the first is at 50 s, and a chunk took it as long"


def test_processes_take_turns():
    class Third(Alone):
        rank, size = 2, 3

    assert [number for number in range(8) if Means(team=Third()).is_mine(number)] == [2, 5]
    assert all(Means().is_mine(number) for number in range(3))
