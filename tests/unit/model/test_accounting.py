import re
from collections import Counter

import pytest
import torch

from models import ALL_TOGETHER, ATTENTION, CASES, model_config
from nutshell.model.accounting import Part, count_params, flops_by_part, flops_per_token, params_by_part
from nutshell.model.lm import LM

# A parameter's name in the state dict, and the seam that it belongs to.
SEAM_OF = {
    r"embedding": "embedding",
    r"embedding_project\.": "embedding",
    r"head_project\.": "head",
    r"inputs\.": "inputs",
    r"tables\.": "values",
    r"skips\.": "depth.join",
    r"blocks\.\d+\.attentions\.\d+\.(q|k|v|out)\.": r"attention.\1",
    r"blocks\.\d+\.attentions\.\d+\.q_gain": "attention",
    r"blocks\.\d+\.attentions\.\d+\.(values|heads)\.": r"\1",
    r"blocks\.\d+\.mlps\.": "mlp",
    r"blocks\.\d+\.modulate_(input|output)\.": "modulate",
    r"blocks\.\d+\.residual\.entry\.": "residual.entry",
    r"blocks\.\d+\.residual\.(?!entry)": "residual",
    r"carry\.": "residual",
    r"head\.": "head",
    r"logits\.": "logits",
}


def seam_of(name):
    (found,) = {re.match(pattern, name).expand(seam) for pattern, seam in SEAM_OF.items() if re.match(pattern, name)}
    return found


@pytest.mark.parametrize("case", [*CASES])
def test_every_seam_has_the_parameters_of_the_model_that_is_built(case):
    config = model_config(**CASES[case])
    schedules = [config.depth.parse(), config.depth.variant(f"0-{config.dims.num_blocks - 1}")]
    with torch.device("meta"):
        built = LM(config, schedules)
    expected = Counter()
    for name, value in built.named_parameters():
        expected[seam_of(name)] += value.numel()
    counted = Counter()
    for part, number in params_by_part(config, schedules).items():
        counted[part.seam] += number
    assert +counted == expected
    assert counted.total() == count_params(config, schedules)


def test_every_listed_technique_is_a_part_even_without_parameters():
    config = model_config(**ALL_TOGETHER)
    parts = params_by_part(config, [config.depth.parse()])
    assert parts.keys() >= {Part("heads", "xsa"), Part("inputs", "embed_norm"), Part("modulate", "layer_scale")}
    assert parts[Part("heads", "xsa")] == 0
    assert parts[Part("depth.join", "add_skip")] == 2 * 24  # 0 1 2 1 2 3, mirrored: two skips


def test_flops_by_part_are_those_of_the_matrix_products():
    values = [{"kind": "value_embedding", "dim": 6}]
    config = model_config(values=values, attention=ATTENTION)
    schedule = config.depth.parse()  # 0 (1-2)x2 3: six virtual layers; width 24, heads 4 and 2 of 8
    parts = flops_by_part(config, schedule, 10)
    assert parts[Part("attention.q", "dense")] == 3 * 6 * 2 * 24 * 32
    assert parts[Part("attention.k", "dense")] == parts[Part("attention.v", "dense")] == 3 * 6 * 2 * 24 * 16
    assert parts[Part("attention", "attend")] == 3 * 6 * 4 * 32 * 11 / 2
    assert parts[Part("mlp", "relu2")] == 3 * 6 * 2 * 2 * 24 * 40
    assert parts[Part("values", "value_embedding")] == 3 * 2 * 6 * 16  # once, not at every visit
    assert parts[Part("head", "tied")] == 3 * 2 * 61 * 24
    assert sum(parts.values()) == flops_per_token(config, schedule, 10)


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_of_another_width_costs_two_projections_and_less_in_its_tables(tied):
    config = model_config(embedding_dim=10, tied_head=tied)
    schedule = config.depth.parse()
    counts, flops = params_by_part(config, [schedule]), flops_by_part(config, schedule, 10)
    head = Part("head", "tied" if tied else "dense")
    assert counts[Part("embedding", "table")] == 61 * 10
    assert counts[head] == (0 if tied else 61 * 10)
    assert flops[head] == 3 * 2 * 61 * 10
    for seam in ("embedding", "head"):
        assert counts[Part(seam, "project")] == 10 * 24
        assert flops[Part(seam, "project")] == 3 * 2 * 10 * 24
    plain = params_by_part(model_config(), [schedule])
    assert Part("embedding", "project") not in plain
    assert Part("head", "project") not in plain
