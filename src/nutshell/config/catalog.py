"""The recipes installed with the package, and which file a recipe's name means.

Only names and claims are read here, so that listing the recipes waits for no library that training needs.
"""

import difflib
from importlib import resources
from pathlib import Path

from nutshell.config.loader import read_table
from nutshell.errors import RecipeError


def installed_recipes() -> list[tuple[str, str]]:
    """List the recipes of the package: names and the claims they open with."""
    return [(path.stem, str(read_table(path).get("about", ""))) for path in _installed()]


def find_recipe(name_or_path: str) -> Path:
    """Give the file of an installed recipe by name, or a path as it is.

    Raises:
        RecipeError: neither an installed recipe nor a path of a file.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or (path.exists() and not path.is_dir()):
        return path
    installed = {file.stem: file for file in _installed()}
    if name_or_path in installed:
        return installed[name_or_path]
    if path.is_dir():
        raise RecipeError(f"'{name_or_path}' is a folder, not a recipe; give the path of a .toml file")
    close = difflib.get_close_matches(name_or_path, installed, n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    raise RecipeError(
        f"no recipe '{name_or_path}'; {guess}'nutshell recipes' lists those installed; or give the path of a .toml file"
    )


def _installed() -> list[Path]:
    folder = Path(str(resources.files("nutshell") / "recipes"))
    return sorted(folder.glob("*.toml"), key=lambda path: path.stem)
