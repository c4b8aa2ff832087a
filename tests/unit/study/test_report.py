"""The report says what the outcomes say, counted a second time by other means."""

import re
import statistics

import msgspec
import pytest
import scipy.stats
from rich.console import Console

from nutshell.report.terminal import THEME
from nutshell.study.analysis import analyse
from nutshell.study.report import study_html, study_markdown
from nutshell.study.tables import analysis_view, plan_view, progress_view, verdict_in_words
from small_studies import STUDY, outcome, planned

PUBLISHED = STUDY.replace('hypothesis = "two', 'published = -0.5\nhypothesis = "two')
SIZES = '\n[[sizes]]\nname = "small"\nset.model.model_dim = 64\n[[sizes]]\nname = "large"\n'


@pytest.fixture
def plan(tmp_path):
    return planned(tmp_path, PUBLISHED)


@pytest.fixture
def outcomes(plan):
    return [outcome(trial) for trial in plan.trials]


def of(outcomes, arm):
    return [each.measures["disjoint"] for each in outcomes if each.arm == arm]


def shown(view):
    console = Console(width=200, no_color=True, theme=THEME)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def test_means_and_intervals_are_those_of_the_outcomes(plan, outcomes):
    text = study_markdown(plan, analyse(plan, outcomes), command="c")
    for arm in ("base", "loop35", "flat"):
        values = of(outcomes, arm)
        assert f"{statistics.fmean(values):.5f} ({statistics.stdev(values):.5f})" in text
    wanted = scipy.stats.ttest_rel(of(outcomes, "flat"), of(outcomes, "base")).confidence_interval(1 - 0.05 / 2)
    mean = statistics.fmean(of(outcomes, "flat")) - statistics.fmean(of(outcomes, "base"))
    assert f"| flat | base | 12steps | {mean:+.5f} | {wanted.low:+.5f} to {wanted.high:+.5f} | 4 |" in text
    assert re.search(r"\| flat \| base .*\| worse \|", text)
    assert "of 2 comparisons 1 worse, 1 undecided" in text


def test_equal_steps_and_equal_time_come_from_the_curves(plan, outcomes):
    """A twin twice as slow has come half as far when the other one ends."""
    slow = [
        msgspec.structs.replace(
            each,
            curve=msgspec.structs.replace(each.curve, seconds=tuple(2 * second for second in each.curve.seconds)),
        )
        if each.arm == "flat"
        else each
        for each in outcomes
    ]
    found = next(row for row in analyse(plan, slow).comparisons if row.arm == "flat")
    assert found.at_equal_steps.mean == pytest.approx(found.effect.mean)
    assert found.at_equal_time.mean == pytest.approx(found.effect.mean + 1 / 6 - 1 / 12)


def test_a_published_sign_is_held_against_ours(plan, outcomes):
    found = next(row for row in analyse(plan, outcomes).comparisons if row.arm == "loop35")
    assert found.same_sign == (found.effect.mean < 0)
    assert "| loop35 | base | 12steps | -0.50000 |" in study_markdown(plan, analyse(plan, outcomes), command="c")


def test_the_gap_is_what_packing_costs(plan, outcomes):
    (summary, *_) = analyse(plan, outcomes).summaries
    assert summary.means["gap"] == pytest.approx(0.01)


def test_the_page_has_its_drawings_and_needs_nothing(tmp_path):
    plan = planned(tmp_path, PUBLISHED + SIZES)
    outcomes = [outcome(trial) for trial in plan.trials]
    page = study_html(plan, analyse(plan, outcomes), outcomes, command="nutshell <x>")
    assert page.count("<svg") == 2 * 3
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert "nutshell &lt;x&gt;" in page
    assert "loop35 less base" in page
    assert "Transfer" in page
    assert page == study_html(plan, analyse(plan, outcomes), outcomes, command="nutshell <x>")


def test_a_study_that_has_hardly_begun(plan, outcomes):
    found = analyse(plan, outcomes[:1], failed={("flat", ("", "12steps")): 2})
    assert [verdict_in_words(row, 0.002) for row in found.comparisons] == ["undecided: too few seeds"] * 2
    page = study_html(plan, found, outcomes[:1], command="c")
    assert "1 of 12 trials done" in page
    assert "0, 2 failed" in page
    assert "undecided" in study_markdown(plan, analyse(plan, []), command="c")


def test_the_terminal_shows_the_same(plan, outcomes):
    text = shown(analysis_view(analyse(plan, outcomes)))
    mean = statistics.fmean(of(outcomes, "flat")) - statistics.fmean(of(outcomes, "base"))
    assert f"{mean:+.5f}" in text
    assert "any verdict of the 2 is false with probability 0.05 at most" in text
    assert re.search(r"noise of base 12steps: sd [\d.]+ over 4 seeds", text)


def test_plan_and_progress_are_tables(plan):
    arms = [{"arm": arm.name, "against": arm.against, "hypothesis": arm.hypothesis} for arm in plan.arms]
    trials = [{"arm": trial.arm} for trial in plan.trials]
    text = shown(plan_view({"about": "why", "arms": arms, "trials": trials}))
    assert re.search(r"loop35 +base +4 +two do as well", text)
    text = shown(progress_view([{"arm": "flat", "done": 1, "failed": 2, "waiting": 3}], "flat: failed: it broke"))
    assert re.search(r"flat +1 +2 +3", text)
    assert "flat: failed: it broke" in text
