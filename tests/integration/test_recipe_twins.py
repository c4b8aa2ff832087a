"""A recipe NAME-cpu is NAME at a size for a small machine: the same techniques, which train, pack and load."""

import math
import random

import msgspec
import pytest
import torch

from nutshell.artifact.load import load
from nutshell.artifact.pack import Contents, Packer, is_fitted
from nutshell.config.catalog import installed_recipes
from nutshell.config.curve import values_of
from nutshell.config.loader import to_table
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.quant.calibrate import calibrate
from nutshell.quant.config import rule_for
from nutshell.recipe import resolve
from nutshell.train.averaging import name_of
from nutshell.train.compute import Compute
from nutshell.train.loss import TrainingLoss
from nutshell.train.state import TrainState

TWINS = [name for name, _ in installed_recipes() if name.endswith("-cpu")]
FAMILIES = {"baseline", "sp8192", "share", "recur", "study"}
twins = pytest.mark.parametrize("twin", TWINS)

# What may differ: how large, how deep and how wide, and at which blocks.
SIZES = {"vocab_size", "model_dim", "num_heads", "num_kv_heads", "mlp_dim", "rotary", "buckets", "dim"}
SIZES |= {"schedule", "blocks", "from_block", "budget_bytes", "tokens"}
# Curves that run through the same values, each at its own fractions of a run.
CURVES = ("lr_curve", "momentum")
EAGER = Compute(dtype=torch.float32, attend_kind="fused", compiled=False)


@pytest.fixture(scope="module")
def tokenizer():
    rng = random.Random(0)
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(3_000)]
    return train_tokenizer([" ".join(rng.choices(words, k=20_000)).encode()], vocab_size=2_048)


def without_sizes(value):
    if isinstance(value, dict):
        return {key: without_sizes(item) for key, item in value.items() if key not in SIZES}
    return [without_sizes(item) for item in value] if isinstance(value, list) else value


def rates(optim):
    table = msgspec.structs.asdict(optim)
    return table | {name: values_of(table[name]) for name in CURVES}


def calibrated(recipe, weights, inputs):
    """What the recipe's calibration says on this text, for those that have one."""
    if recipe.pack.calibration is None:
        return {}
    model = LM(recipe.model, [recipe.final_schedule])
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return calibrate(
        model.requires_grad_(requires_grad=False),
        recipe.final_schedule,
        list(inputs[:, None].numpy()),
        names=[row.name for row in ParamTable.of(model) if rule_for(recipe.pack.rules, row.role, row.shape)],
        metric=recipe.pack.calibration.metric,
    )


def test_every_family_has_a_twin():
    assert {family for family in FAMILIES for twin in TWINS if twin.startswith(family)} == FAMILIES


@twins
def test_a_twin_has_the_techniques_and_rates_of_its_original(twin):
    small, full = resolve(twin).recipe, resolve(twin.removesuffix("-cpu")).recipe
    assert without_sizes(to_table(small.model)) == without_sizes(to_table(full.model))
    assert rates(small.optim) == rates(full.optim)
    assert without_sizes(to_table(small.pack)) == without_sizes(to_table(full.pack))
    assert [phase.until for phase in small.train.phases] == [phase.until for phase in full.train.phases]
    assert list(map(name_of, small.train.averages)) == list(map(name_of, full.train.averages))


@twins
def test_a_twin_is_run_on_what_the_demo_makes(twin):
    small = resolve(twin).recipe
    assert small.model.vocab_size == resolve("demo").recipe.model.vocab_size
    assert small.train.budget.seconds is not None
    assert small.train.budget.seconds <= 300
    assert small.prove is not None


@twins
def test_a_twin_trains_packs_and_loads(twin, tokenizer):
    resolved = resolve(twin)
    recipe = resolved.recipe
    model = LM(recipe.model, recipe.schedules)
    model.init_weights(0)
    loss = TrainingLoss(model, EAGER, recipe.train)
    state = TrainState(model, recipe.train, recipe.optim, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(2_048, (2, 4, 48), generator=generator)

    first = loss(inputs, targets, recipe.schedules[0])
    first.objective.backward()
    assert first.nats.item() == pytest.approx(math.log(2_048), rel=0.05)
    state.optimizers.step(0.0)
    before = loss(inputs, targets, recipe.final_schedule)
    before.objective.backward()
    # Once the branches' last matrices have left zero, everything that is shipped takes part.
    table = ParamTable.of(model)
    assert [row.name for row in table if row.value.grad is None or not row.value.grad.any()] == []
    state.optimizers.step(0.0)
    with torch.no_grad():
        assert loss(inputs, targets, recipe.final_schedule).nats < before.nats

    weights = {name: value.detach() for name, value in state.weights.items()}
    contents = Contents.of(weights, table, recipe=resolved.toml(), tokenizer=tokenizer.model_bytes)
    statistics = calibrated(recipe, weights, inputs)
    packed = Packer(contents, recipe.pack, statistics).pack(4.0 if is_fitted(recipe.pack) else None)
    assert len(packed.content) <= recipe.pack.budget_bytes
    loaded = load(packed.content)
    assert loaded.schedule == recipe.final_schedule
    with torch.no_grad():
        live, shipped = (
            torch.nn.functional.cross_entropy(each(inputs, recipe.final_schedule).flatten(0, 1), targets.flatten())
            for each in (model, loaded.model)
        )
    assert shipped.item() == pytest.approx(live.item(), abs=0.02)
