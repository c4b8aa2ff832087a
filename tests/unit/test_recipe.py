"""Which file a recipe's name or path means."""

import pytest

from nutshell.config.catalog import installed_recipes
from nutshell.errors import RecipeError
from nutshell.recipe import resolve


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [name for name, _ in installed_recipes()])
def test_a_folder_does_not_hide_the_recipe_of_its_name(here, name):
    (here / name).mkdir()
    assert resolve(name).name == name


@pytest.mark.parametrize("path", ["mine", "demo/", "./demo", "."])
def test_a_folder_given_as_a_path_is_one_clear_line(here, path):
    (here / path).mkdir(exist_ok=True)
    with pytest.raises(RecipeError, match=f"^'{path}' is a folder, not a recipe; give the path of a .toml file$"):
        resolve(path)


def test_a_folder_called_like_a_file_is_named(here):
    (here / "mine.toml").mkdir()
    with pytest.raises(RecipeError, match=r"^mine\.toml: cannot read the recipe \(Is a directory\)$"):
        resolve("mine.toml")


def test_a_path_is_not_looked_up_among_the_installed_recipes():
    with pytest.raises(RecipeError, match=r"^no recipe '\./demo'; did you mean 'demo'\?"):
        resolve("./demo")


@pytest.mark.parametrize(
    ("name", "guess"),
    [("demmo", "did you mean 'demo'? "), ("study855-app", "did you mean 'study855-ap'? "), ("qqq", "")],
)
def test_a_name_that_is_not_there_is_one_line_however_many_recipes_are(name, guess):
    with pytest.raises(RecipeError) as caught:
        resolve(name)
    ending = "'nutshell recipes' lists those installed; or give the path of a .toml file"
    assert str(caught.value) == f"no recipe '{name}'; {guess}{ending}"


@pytest.mark.parametrize("name", ["mine", "mine.toml"])
def test_a_file_is_a_recipe_whatever_it_is_called(here, name):
    (here / name).write_text('about = ""')
    with pytest.raises(RecipeError, match=f"^{name}: "):
        resolve(name)


def test_a_phase_that_begins_with_another_block_is_refused_where_the_first_values_are_mixed_in():
    other = "train.phases=[{until=0.5, schedule='1 0 2'}]"
    resolve("demo", [other])
    with pytest.raises(RecipeError, match="'1 0 2' begins with block 1, the packed schedule with block 0"):
        resolve("demo", [other, "model.values=[{kind='value_residual'}]"])
