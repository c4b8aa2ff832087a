"""The doctor, through the command, on machines that have and lack things."""

import json
import sys

import pytest

from nutshell import cli
from nutshell.pipeline import doctor
from nutshell.recipe import resolve
from nutshell.train import compute


@pytest.fixture
def typed(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["nutshell", "doctor", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as done:
            status = done.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(compute.shutil, "which", lambda name: "/bin/g++" if name == "g++" else None)
    monkeypatch.setattr(compute, "bf16_extension", lambda: "amx_bf16")
    monkeypatch.setattr(doctor, "bf16_extension", lambda: "amx_bf16")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "_gpus", list)


def test_a_machine_with_everything(typed):
    status, out, _ = typed("--json")
    found = json.loads(out)
    assert (status, found["ok"], found["missing"]) == (0, True, [])
    assert (found["paths"]["device"], found["paths"]["compute_dtype"]) == ("cpu", "bf16")
    assert (found["paths"]["compiled_scope"], found["machine"]["compiler"]) == ("blocks", "g++")
    assert "nothing is missing" in typed()[1]


def test_what_is_missing_is_told_and_is_no_failure(typed, monkeypatch):
    monkeypatch.setattr(compute.shutil, "which", lambda name: None)
    monkeypatch.setattr(compute, "bf16_extension", lambda: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    status, out, _ = typed("--json")
    assert status == 0
    assert [row["what"] for row in json.loads(out)["missing"]] == ["compiler", "bf16", "huggingface_hub", "scipy"]
    shown = typed()[1]
    assert "install g++ or clang++" in shown
    assert "pip install nutshell-lm[hub]" in shown


def test_a_recipe_that_is_not_compiled_lacks_no_compiler(typed, tmp_path):
    recipe = tmp_path / "eager.toml"
    recipe.write_text(resolve("demo", ['train.compile="never"']).toml())
    found = json.loads(typed("--recipe", str(recipe), "--json")[1])
    assert (found["paths"]["compiled_scope"], found["machine"]["compiler"], found["missing"]) == (None, "g++", [])


def test_too_little_memory_is_a_failure(typed, monkeypatch):
    monkeypatch.setattr(doctor, "_memory_bytes", lambda: 10**8)
    status, _, err = typed("--recipe", "sp8192-loop36")
    assert status == 1
    assert "of 100,000,000" in err
    monkeypatch.setattr(doctor, "_gpus", lambda: [{"name": "a GPU", "memory_bytes": 8 * 10**10}])
    status, out, _ = typed("--recipe", "sp8192-loop36")
    assert status == 0
    assert "a GPU (80 GB)" in out


def test_the_state_is_counted_from_the_parameters():
    # weights, gradients, two moments and one average of 35,945,560 weights (docs: the recipe's own claim), 4 bytes each
    assert doctor.state_bytes(resolve("sp8192-loop36").recipe) == 35_945_560 * 5 * 4
