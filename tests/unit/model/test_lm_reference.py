"""The forward against a float64 reference written out layer by layer, and the initial state it promises."""

import math

import pytest
import torch

from models import ATTENTION, build_model, model_config, tokens
from nutshell.errors import RecipeError
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable


def rms(x):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1.1920929e-07)


def reference_block(x, weights, prefix, positions):
    """One plain block with relu^2, without rotary (dims 0) and without techniques."""
    h = rms(x)
    q = rms((h @ weights[f"{prefix}.attentions.0.q.weight"].T).unflatten(-1, (4, 8)))
    k = rms((h @ weights[f"{prefix}.attentions.0.k.weight"].T).unflatten(-1, (2, 8)))
    v = (h @ weights[f"{prefix}.attentions.0.v.weight"].T).unflatten(-1, (2, 8))
    q = q * weights[f"{prefix}.attentions.0.q_gain.0"][:, None]
    heads = []
    for head in range(4):
        logits = q[:, head] @ k[:, head // 2].T / math.sqrt(8)
        logits = logits.masked_fill(torch.ones(positions, positions).triu(1).bool(), -math.inf)
        heads.append(logits.softmax(-1) @ v[:, head // 2])
    x = x + torch.cat(heads, -1) @ weights[f"{prefix}.attentions.0.out.weight"].T
    hidden = torch.relu(rms(x) @ weights[f"{prefix}.mlps.0.up.weight"].T) ** 2
    return x + hidden @ weights[f"{prefix}.mlps.0.down.weight"].T


def test_a_looped_model_with_a_skip_is_its_formula():
    config = model_config(
        depth={"schedule": "0 (1)x2 2", "skips": [[0, 3]]}, attention={**ATTENTION, "rotary": {"dims": 0}}
    )
    model, schedule = build_model(config)
    text = tokens(1, 6)
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    x = weights["embedding"][text[0]]
    first = reference_block(x, weights, "blocks.0", 6)
    x = reference_block(reference_block(first, weights, "blocks.1", 6), weights, "blocks.1", 6)
    x = x + weights["skips.0_0_to_2_0.scale"] * first
    x = reference_block(x, weights, "blocks.2", 6)
    expected = rms(x) @ weights["embedding"].T
    with torch.no_grad():
        torch.testing.assert_close(model(text, schedule)[0], expected.float(), atol=1e-4, rtol=1e-4)


def rms_by_loop(row):
    mean = sum(value * value for value in row) / len(row)
    return [value / math.sqrt(mean + 1.1920929e-07) for value in row]


def products_by_loop(matrix, row):
    return [sum(weight * value for weight, value in zip(weights, row, strict=True)) for weights in matrix]


@pytest.mark.parametrize("embedding_dim", [10, 30])
@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_of_another_width_is_normed_before_its_projection_and_the_state_before_the_other(
    embedding_dim, tied
):
    depth, attention = {"schedule": "0"}, {**ATTENTION, "rotary": {"dims": 0}}
    model, schedule = build_model(
        model_config(embedding_dim=embedding_dim, tied_head=tied, depth=depth, attention=attention)
    )
    text = tokens(1, 6)
    weights = {name: value.detach().double() for name, value in model.named_parameters()}
    table = weights["embedding"].tolist()
    assert len(table[0]) == embedding_dim
    entered = [
        products_by_loop(weights["embedding_project.weight"].tolist(), rms_by_loop(table[token]))
        for token in text[0].tolist()
    ]
    left = reference_block(torch.tensor(entered, dtype=torch.float64), weights, "blocks.0", 6)
    output = table if tied else weights["head.weight"].tolist()
    expected = [
        products_by_loop(output, products_by_loop(weights["head_project.weight"].tolist(), rms_by_loop(row)))
        for row in left.tolist()
    ]
    with torch.no_grad():
        torch.testing.assert_close(model(text, schedule)[0], torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_inputs_act_at_the_models_width_after_the_projection():
    model, _ = build_model(model_config(embedding_dim=10, inputs=[{"kind": "embed_norm"}]))
    with torch.no_grad():
        x0 = model.stream(tokens(1, 6), dtype=torch.float32, attend_kind="fused").x0
    assert x0.shape == (1, 6, 24)
    torch.testing.assert_close(x0.square().mean(-1), torch.ones(1, 6), atol=1e-4, rtol=0)


def test_the_projections_start_orthogonal_and_keep_lengths_on_the_narrow_side():
    config = model_config(embedding_dim=10)
    model = LM(config, [config.depth.parse()])
    model.init_weights(3)
    assert {row.name: row.shape for row in ParamTable.of(model).with_role("projection")} == {
        "embedding_project.weight": (24, 10),
        "head_project.weight": (10, 24),
    }
    entry, leave = model.embedding_project.weight, model.head_project.weight
    for small in (entry.T, leave):
        torch.testing.assert_close(small @ small.T, torch.eye(10), atol=1e-5, rtol=0)
    with torch.no_grad():
        x0 = model.stream(tokens(1, 6), dtype=torch.float32, attend_kind="fused").x0
    torch.testing.assert_close(x0.square().mean(-1), torch.full((1, 6), 10 / 24), atol=0, rtol=0.02)


def test_initial_weights_are_what_the_docstring_says():
    config = model_config(embedding_std=0.02, residual={"kind": "sequential", "entry": [{"kind": "x0_mix"}]})
    model = LM(config, [config.depth.parse()])
    model.init_weights(7)
    block = model.blocks[1]
    assert block.attentions[0].out.weight.abs().max() == 0.0
    assert block.mlps[0].down.weight.abs().max() == 0.0
    for weight in (block.attentions[0].q.weight, block.mlps[0].up.weight):
        small = weight if weight.shape[0] <= weight.shape[1] else weight.T
        torch.testing.assert_close(small @ small.T, torch.eye(len(small)), atol=1e-5, rtol=0)
    assert abs(model.embedding.std().item() / 0.02 - 1) < 0.1
    assert block.attentions[0].q_gain[0].unique().tolist() == [1.5]
    assert block.residual.entry[0].input_scale[0].abs().max() == 0.0


def test_the_seed_decides_the_weights():
    config = model_config()
    models = [LM(config, [config.depth.parse()]) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        model.init_weights(seed)
    same, twin, other = (model.blocks[0].mlps[0].up.weight for model in models)
    assert torch.equal(same, twin)
    assert not torch.equal(same, other)


def test_a_skip_of_any_declared_schedule_has_weights_once():
    config = model_config()
    looped, flat = config.depth.parse(), config.depth.variant("0-3")
    names = {row.name for row in ParamTable.of(LM(config, [looped, flat])) if row.name.startswith("skips.")}
    assert names == {f"skips.{skip.key}.scale" for skip in (*looped.skips, *flat.skips)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": {**ATTENTION, "num_heads": 3}}, "num_heads 3 must be a multiple of num_kv_heads 2"),
        (
            {"attention": {"num_heads": 4, "num_kv_heads": 2}, "model_dim": 26},
            "model_dim 26 is no multiple of num_heads 4",
        ),
        ({"attention": {**ATTENTION, "rotary": {"dims": 3}}}, "rotary.dims 3 must be even"),
        ({"attention": {**ATTENTION, "rotary": {"dims": 10}}}, "at most 8"),
        ({"model_dim": 0}, "model_dim must be at least 1"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"embedding_dim": 24}, "embedding_dim 24 has no effect: it is model_dim"),
        ({"attention": {**ATTENTION, "head_dim": 0}}, "head_dim must be at least 1"),
        ({"attention": {**ATTENTION, "rotary": {"base": 0.0, "dims": 4}}}, "rotary.base 0.0 must be above 1"),
        ({"embedding_std": -1.0}, "embedding_std must be positive, got -1.0"),
        ({"mlp": {"kind": "relu2", "mlp_dim": 0}}, "mlp_dim must be at least 1"),
        ({"logits": [{"kind": "softcap", "cap": -1.0}]}, "cap must be positive"),
        ({"depth": {"schedule": "0 2"}}, "without a gap"),
    ],
)
def test_impossible_shapes_are_refused_when_the_recipe_is_read(changes, message):
    with pytest.raises(RecipeError) as caught:
        model_config(**changes)
    assert message in str(caught.value)


def test_deviating_visits_are_the_blocks_row_and_their_own_added_also_beyond_the_trained_ones():
    entry = [{"kind": "x0_mix", "per": "deviation"}]
    config = model_config(depth={"schedule": "0 (1)x2 2"}, residual={"kind": "sequential", "entry": entry})
    model, trained = build_model(config)
    by_visit = model_config(
        depth={"schedule": "0 (1)x2 2"}, residual={"kind": "sequential", "entry": [{**entry[0], "per": "visit"}]}
    )
    twin, _ = build_model(by_visit)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in twin.named_parameters():
            head, _, row = name.rpartition(".")
            deviates = "input_scale" in name or "stream_scale" in name
            value.copy_(weights[f"{head}.0"] + weights[f"{head}.{int(row) + 1}"] if deviates else weights[name])
        text = tokens(2, 7)
        for schedule in (trained, trained.extended("0 (1)x4 2")):
            assert torch.equal(model(text, schedule), twin(text, schedule))
