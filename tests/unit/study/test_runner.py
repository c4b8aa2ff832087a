"""The runner on work that is done at once: nothing twice, failures on the record, killed wherever it may be."""

import shutil

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutshell.errors import RunError
from nutshell.files import read_json
from nutshell.study.analysis import analyse
from nutshell.study.plan import read_study
from nutshell.study.runner import Folders, Progress, run_study
from nutshell.study.stored import read_stored, restore_study, store_study
from nutshell.study.trial import FAILURE, OUTCOME
from small_studies import STUDY, FakeExecutor, outcome, planned, written

SEQUENTIAL = "sequential = { looks = [2, 4] }\n" + STUDY


def run(plan, folder, *, retry=False, **how):
    executor = FakeExecutor(plan, folder / "out", **how)
    seen = []
    file = written(folder)
    progress = run_study(plan, file, folder / "data", folder / "out", executor, retry=retry, watch=seen.append)
    return executor, progress, seen


def table(plan, progress):
    return msgspec.json.encode(analyse(plan, progress.outcomes.values()))


def test_every_trial_runs_once(tmp_path):
    plan = planned(tmp_path)
    executor, progress, seen = run(plan, tmp_path)
    assert executor.ran == [trial.folder for trial in plan.trials]
    assert set(progress.states.values()) == {"done"}
    assert len(seen) == 13
    executor, again, _ = run(plan, tmp_path)
    assert executor.ran == []
    assert table(plan, again) == table(plan, progress)


def test_a_trial_that_fails_is_on_the_record_and_the_rest_goes_on(tmp_path):
    plan = planned(tmp_path)
    executor, progress, seen = run(plan, tmp_path, failing={("flat", 1)})
    assert len(executor.ran) == 12
    (failed,) = (trial for trial, state in progress.states.items() if state == "failed")
    record = read_json(tmp_path / "out" / failed.folder / FAILURE)
    assert (failed.arm, failed.seed) == ("flat", 1)
    assert record["said"] == "Traceback\nValueError: it broke"
    assert any(each.last == f"{failed.folder}: failed: ValueError: it broke" for each in seen)
    executor, _, _ = run(plan, tmp_path)
    assert executor.ran == []
    executor, progress, _ = run(plan, tmp_path, retry=True)
    assert executor.ran == [failed.folder]
    assert set(progress.states.values()) == {"done"}


@settings(max_examples=25, deadline=None)
@given(kills=st.lists(st.integers(0, 4), max_size=4), text=st.sampled_from([STUDY, SEQUENTIAL]))
def test_killed_at_random_and_resumed_it_gives_the_same_table(tmp_path_factory, kills, text):
    folder = tmp_path_factory.mktemp("killed")
    plan = planned(folder, text)
    _, whole, _ = run(plan, folder)
    wanted = table(plan, whole)
    shutil.rmtree(folder / "out")
    ran = []
    for after in kills:
        try:
            ran += run(plan, folder, killed_after=after)[0].ran
        except KeyboardInterrupt:
            continue
    _, progress, _ = run(plan, folder)
    assert table(plan, progress) == wanted
    assert len(progress.outcomes) == len(whole.outcomes)
    shutil.rmtree(folder)


def test_arms_that_are_decided_get_no_more_seeds(tmp_path):
    """`flat` is 0.02 worse, twenty times the noise: seen at the first look; `loop35` differs by the noise alone."""
    plan = planned(tmp_path, "sequential = { looks = [3, 4], hopeless = 0.0 }\n" + STUDY.replace("0.002", "0.0001"))
    _, progress, _ = run(plan, tmp_path)
    arms = [(trial.arm, trial.seed) for trial in progress.outcomes]
    assert ("loop35", 3) in arms
    assert ("base", 3) in arms
    assert ("flat", 3) not in arms
    found = {row.arm: row for row in analyse(plan, progress.outcomes.values()).comparisons}
    assert (found["flat"].verdict, found["flat"].looked) == ("worse", 3)
    assert (found["loop35"].verdict, found["loop35"].looked) == ("undecided", 4)


def test_an_arm_without_hope_is_stopped(tmp_path):
    plan = planned(tmp_path, "sequential = { looks = [3, 4], hopeless = 0.9 }\n" + STUDY.replace("0.002", "0.0001"))
    _, progress, _ = run(plan, tmp_path)
    assert ("loop35", 3) not in [(trial.arm, trial.seed) for trial in progress.outcomes]
    found = {row.arm: row for row in analyse(plan, progress.outcomes.values()).comparisons}
    assert (found["loop35"].verdict, found["loop35"].hopeless) == ("undecided", True)


def test_a_damaged_outcome_is_one_clear_line(tmp_path):
    plan = planned(tmp_path)
    run(plan, tmp_path)
    path = tmp_path / "out" / plan.trials[0].folder / OUTCOME
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"not the outcome of a trial .*; delete it and run the study again"):
        run(plan, tmp_path)


def test_what_is_stored_gives_the_same_table(tmp_path):
    plan = planned(tmp_path)
    _, progress, _ = run(plan, tmp_path, failing={("flat", 1)})
    store_study(tmp_path / "stored.json", plan, progress)
    stored = read_stored(tmp_path / "stored.json")
    assert len((tmp_path / "stored.json").read_text().splitlines()) == 2 + len(stored.outcomes)
    assert msgspec.json.encode(analyse(plan, stored.outcomes)) == table(plan, progress)
    assert [(failure.arm, failure.seed) for failure in stored.failed] == [("flat", 1)]
    (tmp_path / "stored.json").write_text("{}")
    with pytest.raises(RunError, match="not a stored study"):
        read_stored(tmp_path / "stored.json")
    with pytest.raises(RunError, match=r"cannot read the study \(No such file"):
        read_stored(tmp_path / "gone.json")


def test_what_is_stored_is_done_on_another_machine(tmp_path):
    plan = planned(tmp_path)
    _, progress, _ = run(plan, tmp_path)
    half = Progress(progress.states, dict(list(progress.outcomes.items())[:7]))
    store_study(tmp_path / "stored.json", plan, half)
    shutil.rmtree(tmp_path / "out")
    restore_study(tmp_path / "stored.json", plan, Folders(tmp_path / "out"))
    executor, again, _ = run(plan, tmp_path)
    assert len(executor.ran) == 5
    assert table(plan, again) == table(plan, progress)


def test_a_measure_that_is_wanted_later_is_measured_of_the_same_trials(tmp_path):
    run(planned(tmp_path), tmp_path)
    plan = planned(tmp_path, 'measures = ["disjoint", "bytes"]\n' + STUDY)
    assert run(plan, tmp_path)[0].ran == []
    plan = planned(tmp_path, 'measures = ["disjoint", "sliding"]\n' + STUDY)
    executor, progress, _ = run(plan, tmp_path)
    assert executor.ran == [trial.folder for trial in plan.trials]
    assert set(progress.states.values()) == {"waiting"}  # the pretended work does not measure it


def test_what_was_stored_is_not_lost_when_the_study_changes(tmp_path):
    path = tmp_path / "stored.json"
    plan = planned(tmp_path)
    _, progress, _ = run(plan, tmp_path)
    store_study(path, plan, progress)
    changed = planned(tmp_path, STUDY.replace("12 }", "13 }"))
    _, later, _ = run(changed, tmp_path)
    store_study(path, changed, later)
    assert len(read_stored(path).outcomes) == 24
    other = read_study(written(tmp_path), data_digest="e" * 64)
    for do in (lambda: store_study(path, other, later), lambda: restore_study(path, other, Folders(tmp_path))):
        with pytest.raises(RunError, match="holds outcomes of another data set"):
            do()


def test_nothing_can_be_stored_of_nothing(tmp_path):
    plan = planned(tmp_path)
    with pytest.raises(RunError, match="no trial is done yet"):
        store_study(tmp_path / "stored.json", plan, Folders(tmp_path / "out").progress(plan))


def test_outcomes_of_other_trials_are_passed_over(tmp_path):
    plan = planned(tmp_path)
    own = [outcome(trial) for trial in plan.trials]
    strangers = [outcome(trial, key="k", measures={"disjoint": 9.0}) for trial in plan.trials]
    lacking = [outcome(trial, measures={"bytes": 1.0}) for trial in plan.trials]
    assert analyse(plan, [*own, *strangers, *lacking]) == analyse(plan, own)
