import io

import msgspec
import pytest
from rich.console import Console

from nutshell.report.recipe_tables import compare_view, describe_view, recipes_view
from nutshell.report.stored import Description
from nutshell.report.terminal import THEME


def lines_of(view, width=120):
    console = Console(file=io.StringIO(), theme=THEME, width=width, markup=False)
    console.print(view, crop=False)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_recipes_stand_by_family():
    names = ["base", "base-cpu", "share-run", "share2", "sp81-loop", "study8-a"]
    lines = lines_of(recipes_view({name: f"claim of {name}" for name in names}))
    told = [f"{name} claim of {name}" for name in names]
    assert lines == [*told[:2], "", *told[2:4], "", told[4], "", told[5]]


@pytest.fixture
def description(load):
    return load("describe.json")


def test_facts_and_costs(description):
    lines = lines_of(describe_view(description))
    for line in [
        "virtual layers 10 over 7 blocks",
        "skips 3, joined by gated_skip",
        "norms attention pre, mlp peri",
        "predicted artifact 991,000 bytes",
        "matrix 1,769,472 81.51 %",
        "mlp relu2 1,777,680 81.89 % 6,126,464 75.39 %",
        "inputs embed_norm - - - -",
        "1 0 to 35 % 32 x 1,024 0-6 7 2 6,000,000",
        "2 35 to 100 % 64 x 2,048, quantized 0-1 (2-4)x2 5-6 10 3 8,126,464",
    ]:
        assert line in lines


def test_parameters_that_are_trained_and_not_packed_are_told_apart(description):
    trained = description["num_params"]
    for packed, told in [(None, ""), (trained, ""), (trained - 96, f" trained, {trained - 96:,} packed")]:
        lines = lines_of(describe_view({**description, "num_packed_params": packed}))
        assert f"parameters {trained:,}{told}" in lines


def test_a_row_for_every_virtual_layer(description):
    lines = lines_of(describe_view(description))
    assert "layer block iteration skip from weights residual entry modulate" in lines
    assert lines[-11:] == [
        "0 0 0 own sequential x0_mix layer_scale 1.0000, branch_scale",
        "1 1 0 own sequential x0_mix layer_scale 0.7071, branch_scale",
        "2 2 0 shared, own mlp sequential x0_mix* layer_scale 0.5774, branch_scale",
        "3 3 0 shared, own mlp sequential x0_mix* layer_scale 0.5000, branch_scale",
        "4 4 0 shared, own mlp sequential x0_mix* layer_scale 0.4472, branch_scale",
        "5 2 1 shared, own mlp sequential x0_mix* layer_scale 0.5774, branch_scale",
        "6 3 1 shared, own mlp sequential x0_mix* layer_scale 0.5000, branch_scale",
        "7 4 1 2 (pop_0) shared, own mlp sequential x0_mix* layer_scale 0.4472, branch_scale",
        "8 5 0 1 (pop_1) own parallel x0_mix layer_scale 0.4082, branch_scale",
        "9 6 0 0 (pop_2) own parallel x0_mix layer_scale 0.3780, branch_scale",
        "* with weights of this visit alone",
    ]


def test_where_it_is_narrow_what_acts_everywhere_is_said_once(description):
    lines = lines_of(describe_view(description), width=100)
    assert "in every layer: branch_scale (modulate)" in lines
    assert "9 6 0 0 (pop_2) own parallel x0_mix layer_scale 0.3780" in lines


def test_a_recipe_with_nothing_to_list(description):
    for layer in description["virtual_layers"]:
        layer |= {"techniques": [], "skips_in": [], "residual": "sequential"}
    bare = {**description, "skips": [], "join": None, "inputs": [], "logits": [], "phases": description["phases"][1:]}
    lines = lines_of(describe_view(bare))
    assert {"skips none", "inputs -", "logits -"} <= set(lines)
    assert not [line for line in lines if line.startswith(("phase", "*"))]
    assert lines[-1] == "9 6 0 own sequential"


def test_names_cannot_command_the_terminal(description):
    hostile = "[red]\x1b[2J"
    for layer in description["virtual_layers"]:
        layer["techniques"][0]["kind"] = hostile
        layer["residual"] = hostile
    description["phases"][0]["schedules"][0]["schedule"] = hostile
    description["parts"][0]["seam"] = hostile
    for width in (70, 200):
        text = "\n".join(lines_of(describe_view({**description, "schedule": hostile}), width=width))
        assert "\x1b" not in text
        assert text.count("[red]\N{REPLACEMENT CHARACTER}[2J") >= 4


def test_a_skip_that_joins_no_two_layers_is_refused(description):
    description["phases"][0]["schedules"][0]["skips"] = [[0, 7]]
    with pytest.raises(msgspec.ValidationError, match=r"skip \[0, 7\] joins no two virtual layers"):
        msgspec.convert(description, Description)


def work(steps, absolute=None):
    return {
        "phases": [
            {"schedules": ["0-6"], "layers": 7.0, "time_share": 0.35, "steps": 0.4, "layer_steps": 0.3},
            {"schedules": ["0-6", "0-9"], "layers": 8.5, "time_share": 0.65, "steps": steps - 0.4, "layer_steps": 0.6},
        ],
        "relative": {"steps": steps, "layer_steps": 1.01, "tokens": 2 * steps},
        "absolute": absolute,
    }


@pytest.fixture
def comparison(load):
    shallow = load("describe.json")
    shallow |= {
        "name": "shallow",
        "virtual_layers": shallow["virtual_layers"][:3],
        "skips": [],
        "num_params": 2_000_000,
    }
    return {
        "a": load("describe.json"),
        "b": shallow,
        "differences": [
            {"path": "model.depth.schedule", "a": "0-9", "b": "0-2"},
            {"path": "model.heads.xsa", "a": {"kind": "xsa", "blocks": "", "deep": True}, "b": None},
            {"path": "train.phases", "a": [{"until": 0.4, "schedule": "0-2"}], "b": []},
        ],
        "equal_time": {
            "assumed": "a step takes 1 ms",
            "a": work(1.0, {"steps": 4550.4, "layer_steps": 65_242.0, "tokens": 9e9}),
            "b": work(0.9),
        },
    }


def test_two_recipes_begin_with_the_settings_in_which_they_differ(comparison):
    lines = lines_of(compare_view(comparison))
    assert lines[:4] == ["A demo", "B shallow", "", "setting A B"]
    assert lines[5:9] == [
        "model.depth.schedule 0-9 0-2",
        'model.heads.xsa xsa blocks="" deep=true absent',
        "train.phases [until=0.4 schedule=0-2] []",
        "",
    ]
    comparison["differences"] = []
    assert "no setting differs" in lines_of(compare_view(comparison))


def test_two_recipes_in_numbers(comparison):
    lines = lines_of(compare_view(comparison))
    for line in [
        "virtual layers 10 3 -7 -70.00 %",
        "skips 3 0 -3 -100.00 %",
        "parameters 2,170,896 2,000,000 -170,896 -7.87 %",
        "predicted artifact bytes 991,000 991,000 +0 +0.00 %",
        "A, phase 1 0-6 7 35.0 % 0.4000 0.3000",
        "A, phase 2 0-6 or 0-9 8.5 65.0 % 0.6000 0.6000",
        "A, in all 7.90 100.0 % 1.0000 1.0100 2.0000",
        "A, in numbers 4,550 65,242 9,000,000,000",
        "B, in all 7.83 100.0 % 0.9000 1.0100 1.8000",
        "assumed: a step takes 1 ms",
    ]:
        assert line in lines
    assert not [line for line in lines if line.startswith("B, in numbers")]
    comparison["a"], comparison["b"] = comparison["b"], comparison["a"]
    assert "skips 0 3 +3 -" in lines_of(compare_view(comparison))


def test_two_recipes_layer_by_layer(comparison):
    lines = lines_of(compare_view(comparison))
    assert lines[-10:-7] == ["0 0 0 0 0", "1 1 0 1 0", "2 2 0 2 0"]
    assert lines[-1] == "9 6 0 0 (pop_2)"
    comparison["a"], comparison["b"] = comparison["b"], comparison["a"]
    assert lines_of(compare_view(comparison))[-1] == "9 6 0 0 (pop_2)"


def test_a_comparison_cannot_command_the_terminal(comparison):
    hostile = "[red]\x1b[2J"
    comparison["b"]["name"] = comparison["equal_time"]["assumed"] = hostile
    comparison["differences"][0] = {"path": hostile, "a": hostile, "b": {hostile: [hostile]}}
    comparison["equal_time"]["a"]["phases"][0]["schedules"] = [hostile]
    text = "\n".join(lines_of(compare_view(comparison)))
    assert "\x1b" not in text
    assert text.count("[red]\N{REPLACEMENT CHARACTER}[2J") == 7
