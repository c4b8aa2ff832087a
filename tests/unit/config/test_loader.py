import copy
import math

import msgspec
import pytest

from nutshell.config.catalog import installed_recipes
from nutshell.config.digest import digest
from nutshell.config.loader import apply_overrides, decode, read_table, to_table, to_toml
from nutshell.config.struct import Config, Kind
from nutshell.errors import RecipeError
from nutshell.recipe import Recipe, resolve


class Round(Kind, frozen=True, tag="round"):
    radius: float


class Square(Kind, frozen=True, tag="square"):
    side: float
    label: str | None = None


class Drawing(Config, frozen=True):
    title: str
    main: Round | Square
    others: tuple[Round | Square, ...] = ()


GOOD = {"title": "a", "main": {"kind": "round", "radius": 1.0}, "others": [{"kind": "square", "side": 2.0}]}


def test_decodes_tagged_unions_and_gives_the_same_config_back_from_toml(tmp_path):
    drawing = decode(GOOD, Drawing, where="here")
    assert drawing.others == (Square(side=2.0),)
    path = tmp_path / "d.toml"
    path.write_text(to_toml(drawing))
    assert decode(read_table(path), Drawing, where="there") == drawing


def test_absent_values_stay_absent_in_toml():
    assert "label" not in to_table(Square(side=1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titlex": "x"}, "here: unknown key 'titlex'; did you mean 'title'?"),
        ({"main": {"kind": "round", "radios": 1.0}}, "here: unknown key 'main.radios'; did you mean 'radius'?"),
        ({"others": [{"kind": "square", "sides": 1.0}]}, "here: unknown key 'others.0.sides'; did you mean 'side'?"),
        (
            {"main": {"kind": "squere", "side": 1.0}},
            "here: unknown kind 'squere' at 'main.kind'; did you mean 'square'?",
        ),
        ({"main": {"kind": "round", "radius": "big"}}, "here: 'main.radius': Expected `float`, got `str`"),
    ],
)
def test_a_mistake_is_named_with_its_path_and_the_nearest_valid_name(change, message):
    with pytest.raises(RecipeError) as caught:
        decode(GOOD | change, Drawing, where="here")
    assert str(caught.value) == message


def test_base_merges_tables_replaces_lists_and_other_kinds(tmp_path):
    (tmp_path / "base.toml").write_text(to_toml(decode(GOOD, Drawing, where="base")))
    child = tmp_path / "child.toml"
    child.write_text('base = "base.toml"\ntitle = "b"\nothers = []\n[main]\nkind = "square"\nside = 3.0\n')
    drawing = decode(read_table(child), Drawing, where="child")
    assert drawing == Drawing(title="b", main=Square(side=3.0))


def test_base_keeps_what_the_child_does_not_say(tmp_path):
    (tmp_path / "base.toml").write_text('title = "a"\n[main]\nkind = "square"\nside = 3.0\nlabel = "x"\n')
    child = tmp_path / "child.toml"
    child.write_text('base = "base.toml"\n[main]\nside = 4.0\n')
    assert read_table(child) == {"title": "a", "main": {"kind": "square", "side": 4.0, "label": "x"}}


def test_a_base_of_a_base_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('title = "a"')
    (tmp_path / "b.toml").write_text('base = "a.toml"')
    (tmp_path / "c.toml").write_text('base = "b.toml"')
    with pytest.raises(RecipeError, match=r"c\.toml: its base b\.toml has a base itself"):
        read_table(tmp_path / "c.toml")


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.toml: cannot read the recipe \(No such file"):
        read_table(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(RecipeError, match=r"bad\.toml: not valid TOML"):
        read_table(tmp_path / "bad.toml")


def test_overrides_are_applied_to_a_copy_and_recorded():
    changed, recorded = apply_overrides(GOOD, ["main.radius=2.5", "others.0.side=7", "title=plain word"])
    assert changed["main"]["radius"] == 2.5
    assert changed["others"][0]["side"] == 7
    assert recorded == {"main.radius": 2.5, "others.0.side": 7, "title": "plain word"}
    assert GOOD["main"]["radius"] == 1.0
    assert GOOD["others"][0]["side"] == 2.0


@pytest.mark.parametrize("override", ["novalue", "=1", "a..b=1", "others.3.side=1", "title.x=1", "others.x.side=1"])
def test_a_senseless_override_is_refused(override):
    with pytest.raises(RecipeError, match=r"^--set "):
        apply_overrides(GOOD, [override])


def test_the_digest_is_of_the_content():
    one = decode(GOOD, Drawing, where="x")
    reordered = decode(dict(reversed(GOOD.items())), Drawing, where="y")
    assert digest(one) == digest(reordered)
    assert digest(one) != digest(msgspec.structs.replace(one, title="b"))


def floats_in(value, path=()):
    """List the paths of all floats in tables and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, item in items for found in floats_in(item, (*path, key))]
    return [path] if isinstance(value, float) else []


def with_number(table, path, number):
    changed = copy.deepcopy(table)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = number
    return changed


@pytest.mark.parametrize("name", [name for name, _ in installed_recipes()])
def test_no_number_of_a_recipe_may_be_infinite_or_none_at_all(name):
    table = to_table(resolve(name).recipe)
    paths = floats_in(table)
    assert len(paths) > 10
    for path in paths:
        for number in (math.nan, math.inf, -math.inf):
            with pytest.raises(RecipeError) as caught:
                decode(with_number(table, path, number), Recipe, where="here")
            assert str(caught.value) == f"here: '{'.'.join(map(str, path))}': {number} is no finite number"


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**5000], ids=["long", "low", "endless"])
def test_no_integer_of_a_recipe_is_longer_than_those_of_toml(number):
    table = with_number(to_table(resolve("demo").recipe), ("model", "vocab_size"), number)
    with pytest.raises(RecipeError, match=r"^here: 'model\.vocab_size': an integer of more than 64 bits$"):
        decode(table, Recipe, where="here")


EVERY_MODEL_NUMBER = """
about = "a test"
[model]
vocab_size = 61
model_dim = 24
embedding_std = 0.005
inputs = [{ kind = "bigram_hash", buckets = 9, dim = 6, scale = 0.1, zero = "projection", std = 0.1 }]
modulate = [{ kind = "film", cap = 4.0 }]
heads = [{ kind = "attention_gate", ceiling = 2.0, scale = 0.5, bias = 1.0 }]
logits = [{ kind = "softcap", cap = 30.0 }]
mlp = { kind = "leaky_relu2", mlp_dim = 40, slope = 0.5 }
attention = { num_heads = 4, num_kv_heads = 2, head_dim = 8, q_gain = 1.5 }
residual = { kind = "bounded", tau = 0.9, entry = [{ kind = "birkhoff", init_logit = 1.0 }] }
depth = { schedule = "0 (1)x2" }
"""


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "path",
    [
        "model.embedding_std",
        "model.inputs.0.scale",
        "model.inputs.0.std",
        "model.modulate.0.cap",
        "model.heads.0.ceiling",
        "model.heads.0.scale",
        "model.heads.0.bias",
        "model.logits.0.cap",
        "model.mlp.slope",
        "model.attention.q_gain",
        "model.residual.tau",
        "model.residual.entry.0.init_logit",
    ],
)
def test_a_number_set_by_hand_is_finite(tmp_path, path, number):
    (tmp_path / "mine.toml").write_text(EVERY_MODEL_NUMBER)
    with pytest.raises(RecipeError, match=f"mine.toml: '{path}': {number} is no finite number"):
        resolve(str(tmp_path / "mine.toml"), [f"{path}={number}"])
