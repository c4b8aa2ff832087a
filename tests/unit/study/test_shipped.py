"""Every study that is shipped is one; that a committed report is that of its outcomes is tests/architecture's."""

from pathlib import Path

import pytest

from nutshell.study.plan import read_study
from nutshell.study.trial import check_measures
from small_studies import DATA

ROOT = Path(__file__).parents[3]
STUDIES = sorted((ROOT / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_is_one(path):
    plan = read_study(path, data_digest=DATA)
    check_measures(plan.config.measures)
    assert plan.config.about
    assert all(arm.hypothesis or arm.from_grid for arm in plan.arms)


def test_there_are_studies():
    assert len(STUDIES) >= 4
