"""What a packing needs and lacks, and what it has and does not use, is said before anything runs."""

import pytest

from nutshell.artifact.config import PackConfig, TrainingText
from nutshell.config.loader import decode
from nutshell.errors import RecipeError

RTN = {"kind": "rtn", "roles": ["matrix"]}
GPTQ = {"kind": "gptq", "roles": ["matrix"], "grid": {"kind": "absmax", "bits": 6}}
TRAINING = {"kind": "training"}


def config(*rules, **others):
    return decode({"budget_bytes": 1_000, "rules": list(rules), **others}, PackConfig, where="test")


@pytest.mark.parametrize(
    ("rules", "others", "message"),
    [
        ([GPTQ], {}, r"the rule 'gptq' for \['matrix'\] needs pack.calibration"),
        ([RTN], {"calibration": TRAINING}, "calibration has no effect: no rule uses one"),
        ([], {"calibration": TRAINING}, "calibration has no effect"),
        ([RTN], {"margin_bytes": 1_000}, "margin_bytes must be from 0 to below the budget, got 1000"),
        ([RTN], {"margin_bytes": -1}, "margin_bytes must be from 0"),
        ([RTN, RTN], {}, "role 'matrix' is claimed by two rules"),
        ([RTN | {"roles": []}], {}, "roles.*length >= 1"),
        ([GPTQ], {"calibration": TRAINING | {"tokens": 0}}, "'calibration.tokens': Expected `int` >= 1"),
        ([GPTQ], {"calibration": TRAINING | {"metric": "outputs"}}, "Invalid enum value 'outputs'"),
        ([GPTQ], {"calibration": TRAINING | {"metrics": "inputs"}}, "did you mean 'metric'"),
    ],
)
def test_contradictions_are_refused(rules, others, message):
    with pytest.raises(RecipeError, match=message):
        config(*rules, **others)


def test_what_goes_together_is_taken():
    assert config(GPTQ, calibration=TRAINING).calibration == TrainingText(tokens=65_536, metric="gradients")
    slope = RTN | {"grid": {"kind": "slope"}}
    assert config(slope).calibration is None
    assert config(slope, calibration={"kind": "generated", "tokens": 7}, margin_bytes=10).limit_bytes == 990
