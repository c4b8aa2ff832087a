import msgspec
import pytest

from nutshell.errors import RecipeError, UsageError
from nutshell.study.plan import chosen, read_study
from small_studies import DATA, STUDY, planned, written


def test_arms_are_changes_of_the_base(tmp_path):
    plan = planned(tmp_path)
    assert [(arm.name, arm.against) for arm in plan.arms] == [("base", None), ("loop35", "base"), ("flat", "base")]
    by_arm = {trial.arm: trial.recipe for trial in plan.trials}
    assert [recipe.final_schedule.text for recipe in by_arm.values()] == ["0 (1-3)x3 4-5", "0 (1-2)x3 3-5", "0-5"]
    assert by_arm["base"].train.phases
    assert not by_arm["flat"].train.phases
    assert {recipe.train.budget.steps for recipe in by_arm.values()} == {12}


def test_trials_are_interleaved_unless_blocked(tmp_path):
    plan = planned(tmp_path)
    assert [(trial.arm, trial.seed) for trial in plan.trials[:4]] == [
        ("base", 0),
        ("loop35", 0),
        ("flat", 0),
        ("base", 1),
    ]
    blocked = planned(tmp_path, 'order = "blocked"\n' + STUDY)
    assert [(trial.arm, trial.seed) for trial in blocked.trials[:5]] == [
        *(("base", seed) for seed in range(4)),
        ("loop35", 0),
    ]


def test_a_key_is_of_what_the_outcome_depends_on(tmp_path):
    plan = planned(tmp_path)
    assert len({trial.key for trial in plan.trials}) == len({trial.folder for trial in plan.trials}) == 12
    assert [trial.key for trial in planned(tmp_path).trials] == [trial.key for trial in plan.trials]
    # A hypothesis, a margin, another measure or more seeds change no trial that is there.
    text = STUDY.replace("two do", "2 do").replace("0.002", "0.1").replace("2, 3]", "2, 3, 4]")
    more = planned(tmp_path, 'measures = ["disjoint", "sliding"]\n' + text)
    assert {trial.key for trial in plan.trials} < {trial.key for trial in more.trials}
    for other in (
        planned(tmp_path, "set.train.batch_size = 16\n" + STUDY),
        planned(tmp_path, STUDY.replace("12 }", "13 }")),
        read_study(written(tmp_path), data_digest="e" * 64),
    ):
        assert not {trial.key for trial in plan.trials} & {trial.key for trial in other.trials}


GRID = """
[[grids]]
[grids.axes.loops.2]
set.model.depth.schedule = "0 (1-3)x2 4-5"
[grids.axes.loops.4]
set.model.depth.schedule = "0 (1-3)x4 4-5"
[grids.axes.width.96]
set.model.model_dim = 96
[grids.axes.width.64]
set.model.model_dim = 64
"""


def test_a_grid_has_every_combination(tmp_path):
    plan = planned(tmp_path, STUDY + GRID)
    made = {arm.name for arm in plan.arms} - {"base", "loop35", "flat"}
    assert made == {"loops=2+width=96", "loops=2+width=64", "loops=4+width=96", "loops=4+width=64"}
    recipe = next(trial.recipe for trial in plan.trials if trial.arm == "loops=4+width=64")
    assert (recipe.final_schedule.text, recipe.model.model_dim) == ("0 (1-3)x4 4-5", 64)


def test_the_cell_of_a_grid_that_is_the_baseline_is_not_run_twice(tmp_path):
    same = GRID.replace("0 (1-3)x2 4-5", "0 (1-3)x3 4-5").replace("model_dim = 96", "model_dim = 128")
    names = {arm.name for arm in planned(tmp_path, STUDY + same).arms}
    assert names == {"base", "loop35", "flat", "loops=2+width=64", "loops=4+width=96", "loops=4+width=64"}


def test_members_of_a_list_are_left_out_and_added(tmp_path):
    study = STUDY.replace("sp8192-loop36-cpu", "recur45-cpu")
    study = study[: study.index("[arms.loop35]")]
    plan = planned(tmp_path, 'leave_one_out = ["model.inputs"]\nadd_one_in = ["model.inputs"]\n' + study)
    kinds = {
        trial.arm: [msgspec.to_builtins(item)["kind"] for item in trial.recipe.model.inputs] for trial in plan.trials
    }
    assert kinds == {
        "base": ["bigram_hash", "embed_norm", "smear_gate"],
        "without-bigram_hash": ["embed_norm", "smear_gate"],
        "without-embed_norm": ["bigram_hash", "smear_gate"],
        "without-smear_gate": ["bigram_hash", "embed_norm"],
        "bare": [],
        "only-bigram_hash": ["bigram_hash"],
        "only-embed_norm": ["embed_norm"],
        "only-smear_gate": ["smear_gate"],
    }
    against = {arm.name: arm.against for arm in plan.arms}
    assert (against["without-embed_norm"], against["bare"], against["only-embed_norm"]) == ("base", "base", "bare")


def test_every_arm_runs_at_every_size_and_budget(tmp_path):
    sizes = """
[[sizes]]
name = "small"
set.model.model_dim = 64
[[sizes]]
name = "large"
"""
    plan = planned(tmp_path, STUDY.replace("{ steps = 12 }", "{ steps = 12 }, { seconds = 5.0 }") + sizes)
    assert len(plan.trials) == 3 * 4 * 2 * 2
    assert (plan.sizes, plan.budgets) == (("small", "large"), ("12steps", "5seconds"))
    assert {trial.size: trial.recipe.model.model_dim for trial in plan.trials} == {"small": 64, "large": 128}
    assert chosen(plan, arm="flat", seed=2, budget="5seconds", size="small").recipe.train.budget.seconds == 5.0
    with pytest.raises(UsageError, match=r"4 trials of arm 'flat' with seed 2; name one of the budgets \(12steps, "):
        chosen(plan, arm="flat", seed=2, budget=None, size=None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("about =", "aboutt =", "unknown key 'aboutt'; did you mean 'about'"),
        ("seeds = [0, 1, 2, 3]", "seeds = [0, 0]", "seeds must be one or more that differ"),
        ("{ steps = 12 }", "", "budgets: give at least one"),
        ("{ steps = 12 }", "{ steps = 12, seconds = 3.0 }", "a budget is exactly one of"),
        ("[decision]", '[decision]\nmetric = "sliding"', "decision.metric 'sliding' is not measured"),
        ("margin = 0.002", "margin = -1.0", "margin"),
        ("[arms.loop35]", '[arms.loop35]\nagainst = "lop36"', "arm 'loop35' is against 'lop36', which is no arm"),
        ("[arms.loop35]", '[arms.loop35]\nagainst = "loop35"', "is against itself"),
        ('"0 (1-2)x3 3-5"', '"0 (1-3)x3 4-5"', "arms 'base' and 'loop35' are the same recipe"),
        ('"0 (1-2)x3 3-5"', '"0 (1-2x3 3-5"', "arm 'loop35': "),
        ('drop = ["train.phases"]', 'drop = ["train.phase"]', "drop 'train.phase': the recipe does not have it"),
        ("set.model.depth.schedule = \"0-5\"", "set.model.dept.schedule = \"0-5\"", "unknown key 'model.dept'"),
        ("[arms.flat]", '[arms."no/slash"]', "'no/slash' cannot name an arm"),
        ("[decision]", "[arms.base]\nset.model.model_dim = 3\n[decision]", "arms.base is the recipe as it is"),
        ('base = "sp8192-loop36-cpu"', 'base = "sp8192-loop36-cup"', "did you mean 'sp8192-loop36-cpu'"),
        ("about =", 'leave_one_out = ["model.nothing"]\nabout =', "'model.nothing' is no list of components"),
        ("about =", "sequential = { looks = [3, 9] }\nabout =", "9 seeds are more than there are"),
        ("about =", "sequential = { looks = [3] }\nabout =", "looks must be two or more rising numbers"),
    ],
)  # fmt: skip
def test_a_faulty_study_is_one_clear_line(tmp_path, old, new, message):
    assert old in STUDY
    with pytest.raises(RecipeError) as raised:
        planned(tmp_path, STUDY.replace(old, new))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert DATA not in str(raised.value)
