"""Every recipe in the package can be run as it is: it decodes, it is described, and what it makes fits its budget."""

import tomllib
from importlib import resources

import msgspec
import pytest

from nutshell.artifact.estimate import predict_bytes
from nutshell.config.catalog import installed_recipes
from nutshell.config.loader import decode
from nutshell.pipeline.describe import describe
from nutshell.quant.config import RtnConfig
from nutshell.quant.grids import AbsmaxGrid
from nutshell.recipe import Recipe, resolve

NAMES = [name for name, _ in installed_recipes()]
recipes = pytest.mark.parametrize("name", NAMES)


def test_there_is_a_recipe_for_the_demo():
    assert "demo" in NAMES


@recipes
def test_it_introduces_itself(name):
    text = (resources.files("nutshell") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    header = [line for line in text.partition("\n\n")[0].splitlines() if line.startswith("# ")]
    assert header[0].startswith("# Claim: ")
    assert header[-1].startswith("# Run: ")
    assert dict(installed_recipes())[name]


def test_no_two_introduce_themselves_alike():
    # One that says nothing of its own would have its base's words.
    claims = [about for _, about in installed_recipes()]
    assert len(set(claims)) == len(claims)


@recipes
def test_its_resolved_form_is_the_same_recipe(name):
    resolved = resolve(name)
    again = decode(tomllib.loads(resolved.toml()), Recipe, where=name)
    assert again == resolved.recipe
    assert resolved.overrides == {}


@recipes
def test_it_is_described_within_its_budget(name):
    resolved = resolve(name)
    description = describe(resolved)
    assert 0 < description["predicted_artifact_bytes"] <= resolved.recipe.pack.budget_bytes
    assert len(description["virtual_layers"]) == resolved.recipe.final_schedule.num_layers
    assert sum(description["params_by_role"].values()) == description["num_params"]  # as built, and as counted


@recipes
def test_its_budget_leaves_room_for_a_useful_precision(name):
    # A fitted recipe is predicted to fill its budget whatever the budget is. So ask for a fixed and coarse grid: three
    # bits to the row's largest weight, about two a weight after coding.
    recipe = resolve(name).recipe
    coarse = [
        RtnConfig(roles=rule.roles, grid=AbsmaxGrid(bits=3)) if rule.grid.is_open else rule
        for rule in recipe.pack.rules
    ]
    calibration = recipe.pack.calibration if any(rule.uses_statistics for rule in coarse) else None
    pack = msgspec.structs.replace(recipe.pack, rules=tuple(coarse), calibration=calibration)
    assert predict_bytes(recipe.model, pack) <= recipe.pack.budget_bytes
