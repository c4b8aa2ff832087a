"""From a study file to its arms, comparisons and trials."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from nutshell.config.catalog import find_recipe
from nutshell.config.digest import digest
from nutshell.config.loader import decode, merge, read_table, read_toml, to_table
from nutshell.errors import RecipeError, UsageError
from nutshell.files import sha256_bytes
from nutshell.recipe import Recipe
from nutshell.study.config import BASELINE, ArmConfig, Delta, SizeConfig, StudyConfig
from nutshell.train.config import BudgetConfig

# Changes with how a trial is trained and measured: those that were measured otherwise are run again.
_MEASURED = 1
_WHOLE_SIZE = SizeConfig(name="")


@dataclass(frozen=True)
class Arm:
    """One arm, as a change of a recipe table."""

    name: str
    against: str | None
    hypothesis: str = ""
    base: str | None = None
    deltas: tuple[Delta, ...] = ()
    published: float | None = None
    from_grid: bool = False


@dataclass(frozen=True)
class Trial:
    """One arm at one size under one budget with one seed.

    Attributes:
        measures: What is measured of it; more may be wanted later, of the same trial.
        key: Hash of all that these depend on, the code and the machine apart.
    """

    arm: str
    size: str
    budget: BudgetConfig
    seed: int
    recipe: Recipe
    measures: tuple[str, ...]
    key: str

    @property
    def budget_name(self) -> str:
        return budget_name(self.budget)

    @property
    def folder(self) -> str:
        """The name of its folder: what it is, for people, and the beginning of its key."""
        parts = [self.arm, self.size, self.budget_name, f"seed{self.seed}", self.key[:12]]
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Plan:
    """A study, ready to run; the file's own text is its record."""

    name: str
    config: StudyConfig
    data_digest: str
    arms: tuple[Arm, ...]
    trials: tuple[Trial, ...]

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(size.name for size in self.config.sizes) or ("",)

    @property
    def budgets(self) -> tuple[str, ...]:
        return tuple(budget_name(budget) for budget in self.config.budgets)

    def trials_with(self, seeds: Sequence[int]) -> list[Trial]:
        """Give the trials of some seeds, in the order of the study."""
        return [trial for trial in self.trials if trial.seed in seeds]


def read_study(path: Path, *, data_digest: str) -> Plan:
    """Read a study file and lay it out.

    Raises:
        RecipeError: the file does not decode, or an arm makes no recipe, or none of its own.
    """
    # `base` names the recipe of the arms here, and is nothing to merge.
    config = decode(read_toml(path), StudyConfig, where=str(path))
    arms = list(_arms(config, path))
    _check_arms(arms, path)
    recipes: dict[tuple[str, str, str], Recipe] = {}
    for arm, size, budget in itertools.product(arms, config.sizes or (_WHOLE_SIZE,), config.budgets):
        table = _table(config, path, arm, size, budget)
        where = f"{path}: arm '{arm.name}'" + (f" at size '{size.name}'" if size.name else "")
        recipes[arm.name, size.name, budget_name(budget)] = decode(table, Recipe, where=where)
    arms = _without_twins_of_the_baseline(arms, recipes)
    _check_recipes_differ({at: recipe for at, recipe in recipes.items() if at[0] in {arm.name for arm in arms}}, path)
    trials = [
        _trial(
            arm.name, size.name, budget, seed, recipes[arm.name, size.name, budget_name(budget)], config, data_digest
        )
        for size, budget in itertools.product(config.sizes or (_WHOLE_SIZE,), config.budgets)
        for arm, seed in _ordered(arms, config)
    ]
    return Plan(path.stem, config, data_digest, tuple(arms), tuple(trials))


def budget_name(budget: BudgetConfig) -> str:
    """Say a budget in a word."""
    name, value = next((name, value) for name, value in msgspec.to_builtins(budget).items() if value is not None)
    return f"{value:g}{name}"


def _ordered(arms: Sequence[Arm], config: StudyConfig) -> Iterator[tuple[Arm, int]]:
    """Pair arms with seeds; the baseline's first, for they say how large the noise is."""
    if config.order == "blocked":
        yield from itertools.product(arms, config.seeds)
        return
    for seed in config.seeds:
        yield from ((arm, seed) for arm in arms)


def _trial(
    arm: str, size: str, budget: BudgetConfig, seed: int, recipe: Recipe, config: StudyConfig, data_digest: str
) -> Trial:
    key = sha256_bytes(msgspec.json.encode([_MEASURED, digest(recipe), seed, data_digest]))
    return Trial(arm, size, budget, seed, recipe, config.measures, key)


def _arms(config: StudyConfig, path: Path) -> Iterator[Arm]:
    """List the arms, the baseline first, then those that are named, then those that are made."""
    named = dict(config.arms)
    baseline = named.pop(BASELINE, ArmConfig())
    if (baseline.set, baseline.drop, baseline.base, baseline.against) != ({}, (), None, None):
        raise RecipeError(f"{path}: arms.{BASELINE} is the recipe as it is; give what all arms change under [set]")
    yield Arm(BASELINE, None, baseline.hypothesis)
    for name, arm in named.items():
        delta = Delta(set=arm.set, drop=arm.drop)
        yield Arm(name, arm.against or BASELINE, arm.hypothesis, arm.base, (delta,), arm.published)
    for grid in config.grids:
        for levels in itertools.product(*(axis.items() for axis in grid.axes.values())):
            name = "+".join(f"{axis}={level}" for axis, (level, _) in zip(grid.axes, levels, strict=True))
            deltas = tuple(delta for _, delta in levels)
            yield Arm(name, grid.against or BASELINE, deltas=deltas, from_grid=True)
    base = _recipe_table(config, path, None)
    for where in config.leave_one_out:
        members = _members(base, where, path)
        for kind in members:
            rest = [member for member in members.values() if member["kind"] != kind]
            yield Arm(f"without-{kind}", BASELINE, deltas=(Delta(set=_nested(where, rest)),))
    if config.add_one_in:
        lists = {where: _members(base, where, path) for where in config.add_one_in}
        bare = tuple(Delta(set=_nested(where, [])) for where in lists)
        yield Arm("bare", BASELINE, deltas=bare)
        for where, members in lists.items():
            for kind, member in members.items():
                yield Arm(f"only-{kind}", "bare", deltas=(*bare, Delta(set=_nested(where, [member]))))


def _members(table: Mapping[str, Any], where: str, path: Path) -> dict[str, dict[str, Any]]:
    """Give the components of a list of the recipe by kind."""
    node: Any = table
    for key in where.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if not isinstance(node, list) or not node or not all(isinstance(item, Mapping) and "kind" in item for item in node):
        raise RecipeError(f"{path}: '{where}' is no list of components of the base recipe")
    return {str(item["kind"]): item for item in node}


def _nested(where: str, value: Any) -> dict[str, Any]:
    for key in reversed(where.split(".")):
        value = {key: value}
    return value


def _table(config: StudyConfig, path: Path, arm: Arm, size: SizeConfig, budget: BudgetConfig) -> dict[str, Any]:
    """Make the recipe of an arm: the base, what all change, the size, the arm, the budget."""
    table = _recipe_table(config, path, arm.base)
    for delta in (Delta(set=size.set, drop=size.drop), *arm.deltas):
        table = _changed(table, delta, f"{path}: arm '{arm.name}'")
    table.setdefault("train", {})["budget"] = to_table(budget)
    return table


def _recipe_table(config: StudyConfig, path: Path, base: str | None) -> dict[str, Any]:
    beside = path.parent / (base or config.base)
    found = beside if beside.suffix == ".toml" else find_recipe(base or config.base)
    return _changed(read_table(found), Delta(set=config.set, drop=config.drop), str(path))


def _changed(table: Mapping[str, Any], delta: Delta, where: str) -> dict[str, Any]:
    changed = copy.deepcopy(dict(table))
    for dotted in delta.drop:
        *parents, last = dotted.split(".")
        node: Any = changed
        for key in parents:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise RecipeError(f"{where}: drop '{dotted}': the recipe does not have it")
        del node[last]
    return merge(changed, delta.set)


def _check_arms(arms: Sequence[Arm], path: Path) -> None:
    names = [arm.name for arm in arms]
    for arm in arms:
        if names.count(arm.name) > 1:
            raise RecipeError(f"{path}: two arms are named '{arm.name}'")
        if arm.against is not None and arm.against not in names:
            raise RecipeError(f"{path}: arm '{arm.name}' is against '{arm.against}', which is no arm")
        if arm.against == arm.name:
            raise RecipeError(f"{path}: arm '{arm.name}' is against itself")


def _without_twins_of_the_baseline(arms: Sequence[Arm], recipes: Mapping[tuple[str, str, str], Recipe]) -> list[Arm]:
    """Drop the cell of a grid that is the recipe as it is: the baseline stands for it."""

    def is_twin(arm: Arm) -> bool:
        own = [at for at in recipes if at[0] == arm.name]
        return arm.from_grid and all(digest(recipes[at]) == digest(recipes[BASELINE, at[1], at[2]]) for at in own)

    return [arm for arm in arms if not is_twin(arm)]


def _check_recipes_differ(recipes: Mapping[tuple[str, str, str], Recipe], path: Path) -> None:
    """Refuse arms that are one recipe: they would be one run under two names."""
    seen: dict[tuple[str, str, str], str] = {}
    for (arm, size, budget), recipe in recipes.items():
        same = msgspec.structs.replace(recipe, about="")
        twin = seen.setdefault((digest(same), size, budget), arm)
        if twin != arm:
            raise RecipeError(f"{path}: arms '{twin}' and '{arm}' are the same recipe")


def chosen(plan: Plan, *, arm: str, seed: int, budget: str | None, size: str | None) -> Trial:
    """Find one trial.

    Raises:
        UsageError: there is none, or more than one.
    """
    found = [
        trial
        for trial in plan.trials
        if (trial.arm, trial.seed) == (arm, seed) and budget in (None, trial.budget_name) and size in (None, trial.size)
    ]
    if len(found) != 1:
        raise UsageError(
            f"study: {len(found)} trials of arm '{arm}' with seed {seed}; name one of the budgets "
            f"({', '.join(plan.budgets)}) and sizes ({', '.join(filter(None, plan.sizes)) or 'none'})"
        )
    return found[0]
