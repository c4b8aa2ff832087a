import json

import pytest

from nutshell.cli import app
from nutshell.errors import RunError, UsageError
from nutshell.files import write_json
from nutshell.study.runs import compare_runs


@pytest.fixture
def finished(tmp_path):
    def write(name, seed, bpb, **more):
        folder = tmp_path / name
        folder.mkdir()
        write_json(folder / "summary.json", {"seed": seed, "bpb": bpb, "name": name, "overrides": {}, **more})
        return str(folder)

    return write


def test_runs_of_the_same_seeds_are_paired(finished):
    a = [finished(f"a{seed}", seed, 1.4 + 0.1 * seed + 0.0001 * seed) for seed in range(3)]
    b = [finished(f"b{seed}", seed, 1.5 + 0.1 * seed) for seed in range(3)]
    found = compare_runs([*a, "--", *b], metric="bpb", margin=0.01, alpha=0.05)
    assert (found["verdict"], found["paired"], found["seeds"]) == ("better", True, 3)
    assert found["difference"] == pytest.approx(-0.0999)
    assert found["low"] < found["difference"] < found["high"] < -0.01
    assert compare_runs([*b, "--", *a], metric="bpb", margin=0.01, alpha=0.05)["verdict"] == "worse"
    assert compare_runs([*b, "--", *a], metric="bpb", margin=0.2, alpha=0.05)["verdict"] == "no larger difference"


def test_runs_of_other_seeds_are_not(finished):
    a = [finished(f"a{seed}", seed, 1.4 + 0.01 * seed) for seed in range(2)]
    b = [finished(f"b{seed}", 10 + seed, 1.41 + 0.01 * seed) for seed in range(2)]
    found = compare_runs([*a, "--", *b], metric="bpb", margin=0.0, alpha=0.05)
    assert (found["verdict"], found["paired"]) == ("undecided", False)


def test_one_run_a_side_decides_nothing(finished):
    found = compare_runs([finished("a", 0, 1.0), "--", finished("b", 0, 9.0)], metric="bpb", margin=0.0, alpha=0.05)
    assert found["verdict"] == "undecided"
    assert "difference" not in found


def test_what_cannot_be_compared_is_one_clear_line(finished, tmp_path):
    a, b = finished("a", 0, 1.0), finished("b", 0, 1.0)

    def fails(error, message, runs, **settings):
        with pytest.raises(error, match=message):
            compare_runs(runs, **{"metric": "bpb", "margin": 0.0, "alpha": 0.05, **settings})

    fails(UsageError, "put '--' between", [a, b])
    fails(UsageError, "name runs on both sides", [a, "--"])
    fails(UsageError, "seed 0 twice on one side", [a, b, "--", b])
    fails(UsageError, "has no number 'bbp'; it has seed, bpb", [a, "--", b], metric="bbp")
    fails(UsageError, "alpha 2 must be between 0 and 1", [a, "--", b], alpha=2.0)
    fails(RunError, "there is no such file; finish it", [a, "--", str(tmp_path / "gone")])
    fails(UsageError, "as an exploration", [a, "--", finished("c", 1, 1.0, overrides={"x": 1})])


def test_both_sides_reach_the_verb(finished, capsys):
    """`--` is ours there, and not the end of the options."""
    a, b = finished("a", 0, 1.25), finished("b", 0, 1.5)
    app(["compare", a, "--", b, "--json"], exit_on_error=False, result_action="return_value")
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"]) == (
        {"runs": [a], "by_seed": {"0": 1.25}},
        {"runs": [b], "by_seed": {"0": 1.5}},
    )
