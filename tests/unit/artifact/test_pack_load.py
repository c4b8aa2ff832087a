"""Weights to bytes and back: what is packed is what is loaded, under any budget that can be met."""

import dataclasses

import msgspec
import numpy as np
import pytest
import torch

from models import ALL_TOGETHER, CASES, SMALL, build_model, tokens
from nutshell.artifact import pack as pack_module
from nutshell.artifact.config import PackConfig
from nutshell.artifact.container import pack_container, unpack_container
from nutshell.artifact.fit import fit
from nutshell.artifact.load import load
from nutshell.artifact.pack import Contents, Packer
from nutshell.config.loader import decode, to_toml
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.errors import ArtifactError, BudgetError, NutshellError
from nutshell.nn.params import ParamTable
from nutshell.predict.predictor import ModelPredictor, ModelStepper
from nutshell.quant.grids import AbsmaxGrid
from nutshell.quant.rtn import round_trip
from nutshell.quant.statistics import Statistics
from nutshell.recipe import Recipe

VOCAB = 300


@pytest.fixture(scope="module")
def tokenizer():
    text = " ".join(f"{word} {number}" for number in range(400) for word in ("alpha", "beta", "gamma", "delta"))
    return train_tokenizer([text.encode()], vocab_size=VOCAB)


def recipe(changes):
    table = {
        "about": "test",
        "model": SMALL | {"vocab_size": VOCAB} | changes,
        "train": {"budget": {"steps": 1}, "batch_size": 1, "seq_len": 16},
        "pack": {"budget_bytes": 40_000, "rules": []},
        "score": {"stride": 8},
    }
    return decode(table, Recipe, where="test")


def contents(tokenizer, changes=ALL_TOGETHER):
    made = recipe(changes)
    model, schedule = build_model(made.model)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    table = ParamTable.of(model)
    return Contents.of(weights, table, recipe=to_toml(made), tokenizer=tokenizer.model_bytes), model, schedule


def rules(*given):
    table = {"budget_bytes": 40_000, "rules": list(given)}
    if any("slope" in str(rule) for rule in given):
        table["calibration"] = {"kind": "generated"}
    return decode(table, PackConfig, where="test")


FITTED = {"kind": "rtn", "roles": ["matrix", "embedding"]}
SLOPE = {"grid": {"kind": "slope"}}
EQUAL_SLOPE = (
    {"kind": "trellis", "roles": ["matrix"], "feedback": True, "lqer": {"kind": "symmetric", "top": 2}} | SLOPE,
    {"kind": "gptq", "roles": ["embedding"]} | SLOPE,
)


def made_up_statistics(whole):
    """Statistics of every matrix, as if its inputs were correlated and its outputs mattered unequally."""
    rng = np.random.default_rng(3)
    made = {}
    for name, weight in whole.weights.items():
        if weight.ndim == 2:
            rows, cols = weight.shape
            inputs = rng.standard_normal((4 * cols, cols)) @ np.diag(rng.uniform(0.3, 3, cols))
            inputs[:, 1:] += 0.5 * inputs[:, :-1]
            made[name] = Statistics(
                torch.from_numpy(inputs.T @ inputs / len(inputs)),
                torch.from_numpy(rng.uniform(0.01, 0.04, rows)),
            )
    return made


@pytest.fixture
def plain_coding(monkeypatch):
    """Store arrays as they are: choosing codes takes most of the time of packing, and has tests of its own."""
    for chains in ("CODE_CHAINS", "SIDE_CHAINS"):
        monkeypatch.setattr(pack_module, chains, (("raw",),))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("plain_coding")
def test_the_state_of_every_technique_survives(tokenizer, case):
    whole, model, schedule = contents(tokenizer, CASES[case] | {"vocab_size": VOCAB})
    loaded = load(
        Packer(whole, rules({"kind": "rtn", "roles": ["matrix"], "grid": {"kind": "absmax", "bits": 8}}))
        .pack(None)
        .content
    )
    with torch.no_grad():
        for row in ParamTable.of(
            model
        ):  # the model that the artifact should give: matrices on the grid, fp16 elsewhere
            if row.role == "matrix":
                row.value.copy_(round_trip(row.value, AbsmaxGrid(bits=8), None))
            else:
                row.value.copy_(row.value.half().float())
        text = tokens(2, 12)
        assert torch.equal(loaded.model(text, loaded.schedule), model(text, schedule))
    assert loaded.schedule == schedule
    assert (loaded.context, loaded.stride, loaded.windows) == (16, 8, "sliding")
    assert loaded.tokenizer.sha256 == tokenizer.sha256


RULES = {
    "rounding": {"kind": "rtn"},
    "gptq": {"kind": "gptq", "grid": {"kind": "sd_clip", "bits": 6, "sigmas": 12.85}},
    "gptq, slope": {"kind": "gptq"} | SLOPE,
    "trellis": {"kind": "trellis"},
    "trellis, slope": {"kind": "trellis", "states": 32, "feedback": True} | SLOPE,
    "low-rank": {"kind": "rtn", "lqer": {"kind": "asymmetric", "rank": 2, "top": 3}},
}


@pytest.mark.parametrize("name", RULES)
def test_what_every_method_packs_is_near_what_was_trained(tokenizer, name):
    whole, model, _ = contents(tokenizer)
    rule = RULES[name] | {"roles": ["matrix", "embedding"]}
    table = {"budget_bytes": 40_000, "rules": [rule]}
    if rule["kind"] == "gptq" or rule.get("feedback"):
        table["calibration"] = {"kind": "generated"}
    packer = Packer(whole, decode(table, PackConfig, where="test"), made_up_statistics(whole))
    open_grid = RULES[name].get("grid", {"kind": "rate"})["kind"] in ("rate", "slope")
    loaded = load(packer.pack(5.0 if open_grid else None).content)
    for row in ParamTable.of(model):
        if row.role in rule["roles"] and row.value.any():
            lost = (loaded.model.get_parameter(row.name) - row.value).detach()
            error = lost.square().mean() / row.value.detach().square().mean()
            assert error < 0.1, f"{row.name}: {float(error):.3f} of its energy is lost"


@pytest.mark.parametrize("budget", [13_000, 15_000, 18_000])
def test_fit_uses_the_budget_to_the_last_promille(tokenizer, budget):
    whole, *_ = contents(tokenizer)
    config = msgspec.structs.replace(rules(FITTED), budget_bytes=budget)
    packed = fit(whole, config).packed
    assert 0.995 * budget <= len(packed.content) <= budget
    load(packed.content)


def test_more_bytes_buy_more_precision(tokenizer):
    whole, *_ = contents(tokenizer)
    fits = [fit(whole, msgspec.structs.replace(rules(FITTED), budget_bytes=size)) for size in (13_000, 18_000)]
    rates = [each.packed.precision.rate_bits for each in fits]
    assert rates[0] < rates[1]


def test_extra_bits_shift_one_role_against_the_other(tokenizer):
    whole, *_ = contents(tokenizer)
    plain = Packer(whole, rules(FITTED)).pack(4.0)
    shifted_rules = rules(
        {"kind": "rtn", "roles": ["matrix"]},
        {"kind": "rtn", "roles": ["embedding"], "grid": {"kind": "rate", "extra_bits": 2.0}},
    )
    shifted = Packer(whole, shifted_rules).pack(4.0)
    for name in whole.roles:
        if (name, "codes") in plain.container.sections:
            before, after = (len(p.container.section(name, "codes").payload) for p in (plain, shifted))
            assert after > 1.3 * before if whole.roles[name] == "embedding" else after == before


def test_a_budget_nothing_meets_is_refused_with_numbers(tokenizer):
    whole, *_ = contents(tokenizer)
    message = r"the artifact has [\d,.]+ k?B at 0.25 bits a weight, over the budget of 5,000 B"
    with pytest.raises(BudgetError, match=message):
        fit(whole, msgspec.structs.replace(rules(FITTED), budget_bytes=5_000))
    fixed = rules({"kind": "rtn", "roles": ["matrix", "embedding"], "grid": {"kind": "absmax", "bits": 8}})
    with pytest.raises(BudgetError, match="the precision that its rules fix"):
        fit(whole, msgspec.structs.replace(fixed, budget_bytes=9_000))


def test_packing_is_deterministic_whatever_the_threads_and_the_workers(tokenizer):
    whole, *_ = contents(tokenizer)
    statistics = made_up_statistics(whole)
    threads = torch.get_num_threads()
    try:
        outcomes = set()
        for count, workers in ((1, 1), (1, 2), (2, 1), (4, 2)):
            torch.set_num_threads(count)
            outcomes.add(fit(whole, rules(*EQUAL_SLOPE), statistics=statistics, workers=workers).packed.content)
            assert torch.get_num_threads() == count  # left as it was
    finally:
        torch.set_num_threads(threads)
    assert len(outcomes) == 1


def repack(packed, edit):
    sections = dict(packed.container.sections)
    edit(sections)
    return pack_container(sections.values(), {})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop(("blocks.0.mlps.0.up.weight", "codes")), "no section 'blocks.0.mlps.0.up.weight'"),
        (lambda s: s.pop(("recipe", "recipe")), "no section 'recipe'"),
        (
            lambda s: s.update(
                {("x", "float"): dataclasses.replace(s["blocks.0.attentions.0.q_gain.0", "float"], name="x")}
            ),
            r"section 'x' \('float'\) belongs to no weight",
        ),
        (
            lambda s: s.update(
                {
                    ("blocks.0.attentions.0.q_gain.0", "float"): dataclasses.replace(
                        s["blocks.0.modulate_output.0.mlp.0", "float"], name="blocks.0.attentions.0.q_gain.0"
                    )
                }
            ),
            r"'blocks.0.attentions.0.q_gain.0' has shape \[24\], its recipe says \[4\]",
        ),
    ],
)
def test_an_artifact_that_is_not_its_recipes_is_refused(tokenizer, edit, message):
    whole, *_ = contents(tokenizer)
    packed = Packer(whole, rules(FITTED)).pack(4.0)
    with pytest.raises(ArtifactError, match=message):
        load(repack(packed, edit), where="here")


def test_a_recipe_that_cannot_be_built_is_an_artifact_error(tokenizer):
    whole, *_ = contents(tokenizer)
    for text in ("= no toml", 'about = "x"', whole.recipe.replace("num_heads = 4", "num_heads = 3")):
        broken = dataclasses.replace(whole, recipe=text)
        with pytest.raises(ArtifactError, match="its recipe or tokenizer cannot be used"):
            load(Packer(broken, rules(FITTED)).pack(4.0).content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": VOCAB + 1}, "^here: its tokenizer has 300 tokens, its recipe 301$"),
        ({"bos_id": 2}, "^here: its tokenizer's BOS is token 1, its recipe's 2$"),
    ],
)
def test_a_tokenizer_that_is_not_its_recipes_is_refused(tokenizer, changes, message):
    whole, *_ = contents(tokenizer, changes)
    with pytest.raises(ArtifactError, match=message):
        load(Packer(whole, rules(FITTED)).pack(4.0).content, where="here")


def test_stepping_through_the_cache_is_scoring_in_windows(tokenizer):
    whole, *_ = contents(tokenizer)
    loaded = load(Packer(whole, rules(FITTED)).pack(5.0).content)
    text = np.random.default_rng(0).integers(0, VOCAB, (3, 16))
    predictor, stepper = ModelPredictor(loaded), ModelStepper(loaded)
    whole_rows = predictor.log_probs(text)
    stepper.begin(3)
    first = stepper.feed(text[:, :5])
    np.testing.assert_allclose(first, whole_rows[:, 4], atol=1e-5)
    stepper.keep(np.array([0, 2]))
    second = stepper.feed(text[[0, 2], 5:6])
    np.testing.assert_allclose(second, whole_rows[[0, 2], 5], atol=1e-5)
    nats = predictor.nats(text[:, :-1], text[:, -4:])
    expected = -np.take_along_axis(whole_rows[:, -5:-1], text[:, -4:, None], axis=2)[..., 0]
    np.testing.assert_allclose(nats, expected, atol=1e-5)


def test_unpacked_sections_match_what_was_packed(tokenizer):
    whole, *_ = contents(tokenizer)
    packed = Packer(whole, rules(FITTED)).pack(4.0)
    assert unpack_container(packed.content).sections == packed.container.sections


@pytest.mark.usefixtures("plain_coding")
@pytest.mark.parametrize("weighted", [False, True])
def test_a_weighted_correction_goes_to_what_costs_most_and_another_to_the_largest_error(tokenizer, weighted):
    whole = contents(tokenizer)[0]
    lqer = {"kind": "symmetric", "rank": 2, "top": 1, "weighted": weighted}
    rule = {"kind": "rtn", "roles": ["matrix"], "grid": {"kind": "absmax", "bits": 3}, "lqer": lqer}
    table = {"budget_bytes": 40_000, "rules": [rule]}
    if weighted:
        table["calibration"] = {"kind": "generated"}
    config = decode(table, PackConfig, where="test")
    matrices = [name for name, role in whole.roles.items() if role == "matrix" and whole.weights[name].ndim == 2]
    plain = decode({"budget_bytes": 40_000, "rules": [{**rule, "lqer": None}]}, PackConfig, where="test")
    rounded = dict(load(Packer(whole, plain).pack(None).content).model.named_parameters())
    errors = {name: (whole.weights[name] - rounded[name].detach()).square().sum().item() for name in matrices}
    largest, least = max(errors, key=errors.get), min(errors, key=errors.get)

    def equal(name, importance):
        rows, cols = whole.weights[name].shape
        return Statistics(torch.eye(cols, dtype=torch.float64), torch.full((rows,), importance, dtype=torch.float64))

    statistics = {name: equal(name, 1e6 if name == least else 1.0) for name in matrices}
    packed = Packer(whole, config, statistics if weighted else {}).pack(None)
    corrected = {name for name, kind in packed.container.sections if kind == "lqer_left"}
    assert corrected == {least if weighted else largest}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("role", ["matrix", "gain"])
def test_weights_that_are_not_finite_are_refused_by_name(tokenizer, value, role):
    whole = contents(tokenizer)[0]
    name = next(name for name, other in whole.roles.items() if other == role)
    broken = whole.weights[name].clone()
    broken.view(-1)[0] = value
    weights = {**whole.weights, name: broken}
    with pytest.raises(NutshellError, match=f"'{name}' is not finite"):
        Packer(dataclasses.replace(whole, weights=weights), rules(FITTED))


def test_a_vector_beyond_fp16_is_refused_by_name(tokenizer):
    whole = contents(tokenizer)[0]
    name = next(name for name, role in whole.roles.items() if role == "gain")
    weights = {**whole.weights, name: torch.full_like(whole.weights[name], 1e5)}
    with pytest.raises(NutshellError, match=f"'{name}' has 100000, beyond fp16"):
        Packer(dataclasses.replace(whole, weights=weights), rules(FITTED))
