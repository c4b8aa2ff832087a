import pytest

from nutshell.report.checks import check_run
from nutshell.report.stored import read_run


def verdicts(run_dir):
    return [check.verdict for check in check_run(read_run(run_dir))]


def test_a_sound_run_passes(run_dir):
    assert verdicts(run_dir) == ["passed"] * 6


@pytest.mark.parametrize(
    ("name", "changes", "failing"),
    [
        ("summary.json", {"tokens": 407_001}, 0),
        ("summary.json", {"coverage": 0.999999}, 1),
        ("summary.json", {"budget_bytes": 987_653}, 2),
        ("pack.json", {"sections": [{"name": "matrix", "kind": "planes", "bytes": 987_653}]}, 3),
        ("describe.json", {"params_by_role": {"matrix": 1_769_472}}, 4),
        ("run.json", {"num_params": 2_170_897}, 4),
        (
            "summary.json",
            {"proof": {"ok": True, "tokens": 9, "documents": 1, "claimed_bits": 100_000, "coded_bits": 100_165}},
            5,
        ),
        (
            "summary.json",
            {"proof": {"ok": True, "tokens": 9, "documents": 1, "claimed_bits": 100_000, "coded_bits": 99_835}},
            5,
        ),
    ],
)
def test_each_disagreement_is_found(run_dir, edit, name, changes, failing):
    edit(name, **changes)
    expected = ["passed"] * 6
    expected[failing] = "failed"
    assert verdicts(run_dir) == expected


def test_ledger_of_another_artifact_is_found(run_dir, edit):
    edit("summary.json", artifact_bytes=900_000)
    assert verdicts(run_dir)[3] == "failed"


def test_what_has_not_been_done_cannot_be_told(run_dir, edit):
    (run_dir / "pack.json").unlink()
    edit("summary.json", bpb=None, proof=None, artifact_bytes=None)
    assert verdicts(run_dir) == [*["cannot tell"] * 4, "passed", "cannot tell"]
