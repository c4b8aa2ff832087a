"""The layers of pyproject.toml hold, and they name every room of the package."""

import sys
import tomllib
from pathlib import Path

import grimp
import pytest
from importlinter import cli

import nutshell

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "pyproject.toml"
PACKAGE = Path(nutshell.__file__).parent

# Above all layers: what starts the command.
ENTRY_POINTS = {"__main__"}

UPWARDS = """
[tool.importlinter]
root_package = "nutshell"

[[tool.importlinter.contracts]]
name = "upside down"
type = "layers"
layers = ["nutshell.config", "nutshell.recipe"]
"""


def lint(config: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "path", sys.path.copy())  # the linter puts the working folder in front and leaves it there
    return cli.lint_imports(str(config), no_cache=True, no_logo=True)


def test_every_import_goes_downwards(monkeypatch, capsys):
    status = lint(CONFIG, monkeypatch)
    assert status == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_linter_sees_an_import_that_goes_upwards(monkeypatch, tmp_path, capsys):
    upside_down = tmp_path / "pyproject.toml"
    upside_down.write_text(UPWARDS, encoding="utf-8")
    assert lint(upside_down, monkeypatch) == cli.EXIT_STATUS_ERROR
    assert "nutshell.recipe -> nutshell.config" in capsys.readouterr().out


def test_nothing_imports_an_entry_point():
    graph = grimp.build_graph("nutshell", cache_dir=None)
    for name in ENTRY_POINTS:
        assert graph.find_modules_that_directly_import(f"nutshell.{name}") == set()


def test_every_room_has_a_layer():
    contracts = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    placed = {name.strip().removeprefix("nutshell.") for layer in layers for name in layer.split("|")}
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"__init__"} - ENTRY_POINTS == placed
