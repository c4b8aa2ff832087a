import pytest

from nutshell.study.trainings import training_recipe
from small_studies import STUDY, planned

QAT = 'set.train.qat = { kind = "noise" }\n'
RULES = """
[arms.coarse]
set.pack.rules = [{ kind = "rtn", roles = ["matrix", "embedding"], grid = { kind = "absmax", bits = 3 } }]
drop = ["pack.calibration"]
[arms.strided]
set.score.stride = 8
"""


@pytest.mark.parametrize("through", [False, True])
def test_what_is_packed_otherwise_is_one_training_unless_it_trains_through_that(tmp_path, through):
    plan = planned(tmp_path, (QAT if through else "") + STUDY + RULES)
    recipes = {trial.arm: training_recipe(trial.recipe) for trial in plan.trials}
    assert (recipes["coarse"] == recipes["base"]) is not through
    assert recipes["strided"] == recipes["base"]
    assert recipes["loop35"] != recipes["base"]
