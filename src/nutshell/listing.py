"""The verb that lists the installed recipes: apart from the others, for it should not wait for what training needs."""

from typing import Annotated

from cyclopts import Parameter

from nutshell.config.catalog import installed_recipes
from nutshell.report.recipe_tables import recipes_view
from nutshell.report.terminal import Terminal


def recipes(*, json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the installed recipes.

    Args:
        json: print them as JSON.
    """
    Terminal(as_json=json).result(dict(installed_recipes()), recipes_view)
