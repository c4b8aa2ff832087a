import json

import pytest

from nutshell.errors import RecipeError
from nutshell.pipeline.describe import describe
from small_recipes import resolve_changed

RECIPE = """
about = "a test"
[model]
vocab_size = 61
model_dim = 24
inputs = [{ kind = "embed_norm" }]
modulate = [{ kind = "layer_scale" }, { kind = "branch_scale", mlp = "visit" }]
values = [{ kind = "value_residual" }]
heads = [{ kind = "xsa", blocks = "2-3" }]
logits = [{ kind = "softcap" }]
mlp = { kind = "relu2", mlp_dim = 40 }
attention = { num_heads = 4, num_kv_heads = 2, head_dim = 8 }
residual = { kind = "sequential", entry = [{ kind = "x0_mix" }] }
depth = { schedule = "0 (1-2)x2 3", skips = "stack", join = { kind = "gated_skip" } }
[train]
batch_size = 2
seq_len = 10
phases = [
  { until = 0.25, schedule = "0-3" },
  { until = 0.5, schedules = ["0-3", "0 (1-2)x3 3"] },
]
budget = { steps = 3 }
[pack]
budget_bytes = 30_000
rules = [{ kind = "rtn", roles = ["matrix", "embedding"] }]
[score]
stride = 10
"""


@pytest.fixture
def described(tmp_path):
    """Describe the recipe, with changes to its text."""

    def of(*changes):
        return json.loads(json.dumps(describe(resolve_changed(tmp_path, RECIPE, *changes))))

    return of


def kinds(layer, seam):
    return [active["kind"] for active in layer["techniques"] if active["seam"] == seam]


def active(layer, kind):
    (found,) = [active for active in layer["techniques"] if active["kind"] == kind]
    return found


def test_every_virtual_layer_of_the_final_schedule(described):
    layers = described()["virtual_layers"]
    assert [(layer["index"], layer["block"], layer["iteration"]) for layer in layers] == [
        (0, 0, 0),
        (1, 1, 0),
        (2, 2, 0),
        (3, 1, 1),
        (4, 2, 1),
        (5, 3, 0),
    ]


def test_skips_by_edge_and_at_their_targets(described):
    description = described()
    assert description["skips"] == [[2, 3], [1, 4], [0, 5]]
    assert description["join"] == "gated_skip"
    received = {layer["index"]: layer["skips_in"] for layer in description["virtual_layers"] if layer["skips_in"]}
    assert received == {
        3: [{"source": 2, "key": "pop_0"}],
        4: [{"source": 1, "key": "pop_1"}],
        5: [{"source": 0, "key": "pop_2"}],
    }
    flat = described((', skips = "stack", join = { kind = "gated_skip" }', ""))
    assert (flat["skips"], flat["join"]) == ([], None)


def test_techniques_stand_at_the_visits_where_they_act(described):
    layers = described()["virtual_layers"]
    assert [kinds(layer, "heads") for layer in layers] == [[], [], ["xsa"], [], ["xsa"], ["xsa"]]
    assert [kinds(layer, "values") for layer in layers] == [[]] + [["value_residual"]] * 5  # the first keeps its own
    assert all(kinds(layer, "entry") == ["x0_mix"] for layer in layers)
    assert kinds(layers[0], "modulate") == ["branch_scale"]  # the layer scale of the first block is 1
    assert all(kinds(layer, "modulate") == ["layer_scale", "branch_scale"] for layer in layers[1:])
    assert {layer["residual"] for layer in layers} == {"sequential"}


@pytest.mark.parametrize(("by", "depths"), [("block", [2, 3, 2, 3, 4]), ("index", [2, 3, 4, 5, 6])])
def test_layer_scale_has_its_value_at_every_visit_but_the_first(described, by, depths):
    layers = described(('"layer_scale"', f'"layer_scale", by = "{by}"'))["virtual_layers"]
    values = [active(layer, "layer_scale")["value"] for layer in layers[1:]]
    assert values == pytest.approx([1 / depth**0.5 for depth in depths])
    assert active(layers[0], "branch_scale")["value"] is None


def test_weights_of_a_visit_alone_are_marked(described):
    layers = described()["virtual_layers"]
    assert [active(layer, "branch_scale")["per_visit"] for layer in layers] == [False, True, True, True, True, False]
    assert not any(active(layer, "x0_mix")["per_visit"] for layer in layers)


def test_a_branch_is_shared_by_the_visits_of_a_block_unless_it_is_untied(described):
    shared, own = {"attention": "shared", "mlp": "shared"}, {"attention": "own", "mlp": "own"}
    assert [layer["weights"] for layer in described()["virtual_layers"]] == [own, *[shared] * 4, own]
    untied = described(('skips = "stack"', 'skips = "stack", untied = "attention"'))["virtual_layers"]
    assert untied[1]["weights"] == {"attention": "own", "mlp": "shared"}
    assert [active(layer, "value_residual")["per_visit"] for layer in untied[1:]] == [True, True, True, True, False]
    assert not active(untied[2], "xsa")["per_visit"]  # it has no weights


def test_an_embedding_of_another_width_has_two_projections_among_the_parts(described):
    description = described(("model_dim = 24\n", "model_dim = 24\nembedding_dim = 10\n"))
    costs = {(part["seam"], part["kind"]): part["params"] for part in description["parts"]}
    assert costs["embedding", "table"] == 61 * 10
    assert costs["embedding", "project"] == costs["head", "project"] == 24 * 10
    assert description["params_by_role"]["projection"] == 2 * 24 * 10
    assert sum(costs.values()) == description["num_params"] == sum(description["params_by_role"].values())


def test_parameters_and_flops_by_part_add_up(described):
    description = described()
    assert sum(part["params"] for part in description["parts"]) == description["num_params"]
    assert sum(description["params_by_role"].values()) == description["num_params"]
    assert sum(part["flops_per_token"] for part in description["parts"]) == description["flops_per_token"]
    named = [(part["seam"], part["kind"]) for part in description["parts"]]
    assert named == [
        ("embedding", "table"),
        ("inputs", "embed_norm"),
        ("values", "value_residual"),
        ("depth.join", "gated_skip"),
        ("residual.entry", "x0_mix"),
        ("modulate", "layer_scale"),
        ("modulate", "branch_scale"),
        ("attention.q", "dense"),
        ("attention.k", "dense"),
        ("attention.v", "dense"),
        ("attention.out", "dense"),
        ("attention", "attend"),
        ("mlp", "relu2"),
        ("residual", "sequential"),
        ("heads", "xsa"),
        ("head", "tied"),
        ("logits", "softcap"),
    ]


def test_what_only_a_phase_trains_is_not_among_the_packed_parameters(described):
    """The phase of five layers over four blocks has a third pass of two of them: weights of two visits and one skip."""
    description = described()
    assert description["num_params"] - description["num_packed_params"] == 2 * 24 + 1 * 2 * 24
    same = described(
        ("phases = [", "phases = [] # ["),
        ('  { until = 0.25, schedule = "0-3" },\n', ""),
        (
            '  { until = 0.5, schedules = ["0-3", "0 (1-2)x3 3"] },\n]\n',
            "",
        ),
    )
    assert same["num_params"] == same["num_packed_params"] == description["num_packed_params"]


def test_phases_are_summarised_in_the_order_in_which_they_run(described):
    description = described()
    phases = description["phases"]
    assert [(phase["begin"], phase["until"]) for phase in phases] == [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0)]
    flat, drawn, final = [phase["schedules"] for phase in phases]
    assert flat == drawn[:1]
    assert (flat[0]["schedule"], flat[0]["blocks"], flat[0]["skips"]) == ("0-3", [0, 1, 2, 3], [[1, 2], [0, 3]])
    assert drawn[1]["blocks"] == [0, 1, 2, 1, 2, 1, 2, 3]
    assert [schedule["schedule"] for schedule in final] == [description["schedule"]]
    assert final[0]["skips"] == description["skips"]
    assert final[0]["flops_per_token"] == description["flops_per_token"]
    head = next(part["flops_per_token"] for part in description["parts"] if part["seam"] == "head")
    blocks = [(schedule["flops_per_token"] - head) / len(schedule["blocks"]) for schedule in [*drawn, *final]]
    assert blocks == pytest.approx([blocks[0]] * 3)


def test_what_acts_once_is_listed(described):
    description = described()
    assert (description["inputs"], description["logits"]) == (["embed_norm"], ["softcap"])
    assert description["norms"] == {"attention": "pre", "mlp": "pre"}


def test_a_rule_for_weights_that_the_model_does_not_have_is_refused(described):
    with pytest.raises(RecipeError, match="'rtn' is for the role 'head', and no matrix of the model has that"):
        described(('"matrix", "embedding"]', '"matrix", "embedding", "head"]'))
