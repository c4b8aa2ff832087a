"""The table of first values names every weight of every model, with the values that it is made with, and no other."""

import re
import typing
from pathlib import Path

import msgspec
import pytest

from models import CASES, model_config
from nutshell.model import entry, techniques
from nutshell.model.attention import AttentionConfig
from nutshell.model.config import ModelConfig
from nutshell.model.lm import LM
from nutshell.nn.params import Normal, ParamTable

PAGE = Path(__file__).parents[3] / "docs" / "initialisation.md"
MADE_OF = {"projection", "low_rank", "kronecker", "rows"}  # what other parts are made of


def configs():
    """The config behind each part of the table that has settings."""
    tables = (
        techniques.InputConfig,
        techniques.ModulateConfig,
        techniques.ValueConfig,
        techniques.HeadConfig,
        techniques.LogitConfig,
        entry.EntryConfig,
    )
    kinds = [kind for table in tables for kind in typing.get_args(table) or (table,)]
    return {"lm": ModelConfig, "attention": AttentionConfig} | {k.__struct_config__.tag: k for k in kinds}


def part_and_weight(model, name):
    """Say which file makes a weight, and what it calls it."""
    part, words, module = "lm", [], model
    for step in name.split("."):
        module = getattr(module, step)
        if not step.isdigit() and step != "parts":
            words.append(step)
        package, _, file = type(module).__module__.rpartition(".")
        if package.startswith("nutshell") and file in MADE_OF:
            break
        if package.startswith("nutshell") and file != part:
            part, words = file, []
    return part, ".".join(words)


def words_of(row):
    """What a weight starts as, in the words of the table."""
    match row.draw:
        case "matrix" | "factor":
            return {"drawn"}
        case "zero":
            return {"0"}
        case Normal(std):
            return {"normal", f"{std:g}"}
    return {f"{value:g}" for value in row.value.unique().tolist()}


@pytest.fixture(scope="module")
def made():
    """By part and weight, all first values that occur in the cases."""
    found = {}
    for changes in CASES.values():
        config = model_config(**changes)
        model = LM(config, [config.depth.parse()])
        for row in ParamTable.of(model):
            found.setdefault(part_and_weight(model, row.name), set()).update(words_of(row))
    return found


@pytest.fixture(scope="module")
def listed():
    """By part and weight, the words of the table and the setting."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            part, weights, values, setting = (cell.strip() for cell in line.strip("|").split("|"))
            words = set(re.findall(r"drawn|normal|\d+(?:\.\d+)?", values))
            for weight in re.findall(r"`([^`]+)`", weights):
                assert (part.strip("`"), weight) not in found, "listed twice"
                found[part.strip("`"), weight] = (words, setting.strip("`"))
    return found


def test_every_weight_is_listed_and_every_line_is_of_a_weight(made, listed):
    assert made.keys() == listed.keys()


def test_values_without_a_setting_are_those_that_models_are_made_with(made, listed):
    fixed = {key: words for key, (words, setting) in listed.items() if setting in ("", "matrix_init")}
    assert len(fixed) > 30
    assert {key: made[key] for key in fixed} == fixed


def test_values_with_a_setting_are_its_default(made, listed):
    with_setting = {key: row for key, row in listed.items() if row[1] not in ("", "matrix_init")}
    assert len(with_setting) > 7
    for key, (words, setting) in with_setting.items():
        default = {field.name: field.default for field in msgspec.structs.fields(configs()[key[0]])}[setting]
        numbers = set() if default is None else {f"{default:g}"}
        assert words - {"0", "normal"} == numbers - {"0"}, key
        assert words & {"0", "normal"} <= made[key], key
