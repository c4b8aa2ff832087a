"""What every role got and cost: held against loops over the artifact's own weights."""

import math

import msgspec
import numpy as np
import pytest
import torch

from models import SMALL, build_model
from nutshell.artifact.fit import Fit, fit
from nutshell.artifact.load import load
from nutshell.artifact.pack import Contents, Packer
from nutshell.artifact.roles import RoleCost, next_percent, role_costs
from nutshell.config.loader import decode, to_toml
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.nn.params import ParamTable
from nutshell.quant.statistics import Statistics
from nutshell.recipe import Recipe

VOCAB = 300
RULES = [
    {"kind": "rtn", "roles": ["matrix"], "grid": {"kind": "slope"}},
    {"kind": "rtn", "roles": ["embedding"], "grid": {"kind": "absmax", "bits": 4}},
]


@pytest.fixture(scope="module")
def whole():
    """A small model as it is packed, its table, and made-up statistics of its matrices."""
    words = " ".join(f"{word} {number}" for number in range(400) for word in ("alpha", "beta", "gamma", "delta"))
    table = {
        "about": "test",
        "model": SMALL | {"vocab_size": VOCAB},
        "train": {"budget": {"steps": 1}, "batch_size": 1, "seq_len": 16},
        "pack": {"budget_bytes": 40_000, "rules": RULES, "calibration": {"kind": "generated"}},
        "score": {"stride": 8},
    }
    recipe = decode(table, Recipe, where="test")
    model, _ = build_model(recipe.model)
    params = ParamTable.of(model)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    tokenizer = train_tokenizer([words.encode()], vocab_size=VOCAB).model_bytes
    rng = np.random.default_rng(0)
    statistics = {}
    for row in params:
        if row.role == "matrix":
            inputs = rng.standard_normal((3 * row.shape[1], row.shape[1])) * rng.uniform(0.5, 2, row.shape[1])
            hessian = torch.from_numpy(inputs.T @ inputs / len(inputs))
            statistics[row.name] = Statistics(hessian, torch.from_numpy(rng.uniform(0.01, 0.05, row.shape[0])))
    return Contents.of(weights, params, recipe=to_toml(recipe), tokenizer=tokenizer), params, recipe.pack, statistics


@pytest.fixture(scope="module")
def packed(whole):
    contents, _, config, statistics = whole
    return Packer(contents, config, statistics).pack(3.0)


@pytest.fixture(scope="module")
def costs(whole, packed):
    contents, params, config, statistics = whole
    return role_costs(contents, params, config, packed.container, statistics)


def test_every_weight_and_every_byte_of_a_weight_is_some_roles(whole, packed, costs):
    contents, params, _, _ = whole
    assert sum(cost.num_weights for cost in costs) == sum(weight.numel() for weight in contents.weights.values())
    named = [s for (name, _), s in packed.container.sections.items() if name in contents.weights]
    assert sum(cost.num_bytes for cost in costs) == sum(len(section.payload) for section in named)
    assert [cost.num_bytes for cost in costs] == sorted((cost.num_bytes for cost in costs), reverse=True)
    for cost in costs:
        assert cost.bits_per_weight == pytest.approx(8 * cost.num_bytes / cost.num_weights)
    assert {cost.role for cost in costs} == {row.role for row in params}


def test_methods_are_named_and_only_the_budgets_are_open(costs):
    by_role = {cost.role: cost for cost in costs}
    assert (by_role["matrix"].method, by_role["matrix"].is_open) == ("rtn, slope", True)
    assert (by_role["embedding"].method, by_role["embedding"].is_open) == ("rtn, absmax", False)
    assert {(c.method, c.is_open, c.steps) for c in costs if c.role not in ("matrix", "embedding")} == {
        ("fp16", False, None)
    }


def test_errors_are_those_of_the_weights_that_a_reader_gets(whole, packed, costs):
    contents, params, _, statistics = whole
    decoded = dict(load(packed.content).model.named_parameters())
    by_role = {cost.role: cost for cost in costs}
    squared, squares, nats = 0.0, 0.0, 0.0
    for row in params:
        if row.role == "matrix":
            trained = contents.weights[row.name].double()
            change = decoded[row.name].detach().double() - trained
            squared += float((change**2).sum())
            squares += float((trained**2).sum())
            hessian, weights = statistics[row.name].hessian, statistics[row.name].row_weights
            nats += sum(0.5 * float(w * (d @ hessian @ d)) for w, d in zip(weights, change, strict=True))
    assert by_role["matrix"].relative_error == pytest.approx(squared / squares)
    assert by_role["matrix"].nats_per_token == pytest.approx(nats)
    assert by_role["embedding"].nats_per_token is None  # it has no statistics


def test_steps_are_the_least_differences_of_decoded_weights(packed, costs):
    decoded = dict(load(packed.content).model.named_parameters())
    values = decoded["embedding"].detach().double()
    seen = [float(row.unique().diff().min()) for row in values]  # of a row's levels, some next to another
    low, high = next(cost.steps for cost in costs if cost.role == "embedding")
    assert low == pytest.approx(min(seen))
    assert high == pytest.approx(max(seen))


def role(name, *, weights, error, nats, is_open):
    return RoleCost(name, "rtn, rate", weights, 100, 4.0, (0.1, 0.2), error, nats, is_open)


def test_the_next_percent_goes_to_what_is_open_and_quarters_the_error_by_the_bit(packed):
    costs = [
        role("matrix", weights=3000, error=0.01, nats=0.02, is_open=True),
        role("embedding", weights=1000, error=0.05, nats=0.01, is_open=True),
        role("head", weights=9000, error=0.5, nats=9.0, is_open=False),
    ]
    percent = round(len(packed.content) / 100)
    found = next_percent(costs, Fit(packed, (), bytes_per_bit=percent / 2))  # so 1 % is two bits
    assert (found.num_bytes, found.bits_per_weight) == (percent, pytest.approx(2.0))
    assert found.relative_error == pytest.approx(15 / 16 * (3000 * 0.01 + 1000 * 0.05) / 4000)
    assert found.nats_per_token == pytest.approx(15 / 16 * 0.03)


def test_nothing_is_promised_where_no_calibration_or_no_open_grid_is(packed):
    known = role("matrix", weights=10, error=0.1, nats=0.1, is_open=True)
    unknown = role("embedding", weights=10, error=0.1, nats=None, is_open=True)
    assert next_percent([known, unknown], Fit(packed, (), 100.0)).nats_per_token is None
    assert next_percent([role("head", weights=1, error=0.1, nats=0.1, is_open=False)], Fit(packed, (), None)) is None


def test_the_next_percent_is_what_another_packing_buys(whole, packed):
    """Its promise, kept: three per cent more bytes lower the expected loss by about three times what it said."""
    contents, params, config, statistics = whole
    few, more = (msgspec.structs.replace(config, budget_bytes=round(f * len(packed.content))) for f in (1.0, 1.03))
    fitted = [fit(contents, each, statistics=statistics) for each in (few, more)]
    spent = [role_costs(contents, params, few, each.packed.container, statistics) for each in fitted]
    nats = [math.fsum(c.nats_per_token for c in each if c.is_open) for each in spent]
    promised = next_percent(spent[0], fitted[0])
    grew = len(fitted[1].packed.content) - len(fitted[0].packed.content)
    assert grew > 0
    assert promised.nats_per_token * grew / promised.num_bytes == pytest.approx(nats[0] - nats[1], rel=0.25)


def test_nothing_is_promised_where_weights_are_finest_already(whole):
    contents, params, config, statistics = whole
    roomy = fit(contents, msgspec.structs.replace(config, budget_bytes=100_000), statistics=statistics)
    costs = role_costs(contents, params, config, roomy.packed.container, statistics)
    assert len(roomy.packed.content) < 50_000
    assert next_percent(costs, roomy) is None
