"""Importing nutshell, asking it for help or for its recipes loads none of the heavy libraries: seconds to wait."""

import subprocess
import sys

import pytest

SAY_MODULES = "import sys; print(*sorted(sys.modules), file=sys.stderr)"
AT_EXIT = f"import atexit; atexit.register(lambda: exec({SAY_MODULES!r}))"
PROGRAMS = {
    "start": SAY_MODULES,
    "import": f"import nutshell; {SAY_MODULES}",
    "help": f"{AT_EXIT}; import sys; sys.argv = ['nutshell', '--help']; from nutshell.cli import main; main()",
    "recipes": f"{AT_EXIT}; import sys; sys.argv = ['nutshell', 'recipes']; from nutshell.cli import main; main()",
    # What the command-line library needs for the same page, whoever asks.
    "bare": f"{AT_EXIT}; from cyclopts import App; app = App(); app.command(print, name='x'); app(['--help'])",
}
HEAVY = {"torch", "numpy", "matplotlib", "jinja2", "sentencepiece", "constriction", "msgspec", "safetensors"}


@pytest.fixture(scope="module")
def modules() -> dict[str, set[str]]:
    """What each program has imported, without the standard library."""
    found = {}
    for name, program in PROGRAMS.items():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        found[name] = {
            module for module in done.stderr.split() if module.partition(".")[0] not in sys.stdlib_module_names
        }
    return {name: found[name] - found["start"] for name in PROGRAMS}


def test_the_package_imports_nothing(modules):
    assert modules["import"] == {"nutshell"}


def test_help_imports_what_the_command_line_library_needs_and_nothing_more(modules):
    assert modules["help"] - modules["bare"] == {"nutshell", "nutshell.cli", "nutshell.errors", "nutshell.printable"}
    assert not modules["help"] & HEAVY


def test_listing_the_recipes_waits_for_nothing_that_training_needs(modules):
    assert "nutshell.config.catalog" in modules["recipes"]
    assert modules["recipes"] & HEAVY <= {"msgspec"}
