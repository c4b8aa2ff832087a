"""An artifact run by another schedule of its blocks than the one it was trained with."""

from types import SimpleNamespace

import pytest
import torch

from models import ALL_TOGETHER, DEPTH, TECHNIQUES, VOCAB, build_model, model_config, tokens
from nutshell.artifact.load import Loaded
from nutshell.errors import RecipeError
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.predict.predictor import ModelPredictor, ModelStepper

BY_VISIT = {
    "modulate": [{"kind": "branch_scale", "attention": "visit", "mlp": "visit"}, {"kind": "film", "shift": True}],
    "residual": {"kind": "sequential", "entry": [{"kind": "x0_mix", "per": "visit"}]},
    "values": [{"kind": "value_residual", "per": "visit"}],
}
CASES = {
    "none": {},
    "by visit": BY_VISIT,
    "untied mlp": TECHNIQUES["untied mlp"],
    "untied attention": TECHNIQUES["untied attention"],
    "all together": ALL_TOGETHER,
}


def load(changes):
    model, schedule = build_model(model_config(**changes))
    tokenizer = SimpleNamespace(vocab_size=VOCAB)
    return Loaded(model.eval(), schedule, tokenizer, context=16, stride=8, recipe="")


def logits(model, schedule):
    with torch.no_grad():
        return model(tokens(2, 12), schedule)


@pytest.mark.parametrize("text", ["0 (1-2)x2 3", "0 1 2 1 2 3"])
def test_the_trained_order_however_it_is_written_is_the_artifact_itself(text):
    loaded = load(ALL_TOGETHER)
    assert loaded.under(text) is loaded


@pytest.mark.parametrize("case", CASES)
def test_more_loops_go_by_the_last_trained_visits_weights(case):
    """The reference is a model that was built for the longer schedule, and given copies of those weights."""
    loaded = load(CASES[case])
    longer = loaded.under("0 (1-2)x4 3")
    assert (longer.schedule.text, longer.model) == ("0 (1-2)x4 3", loaded.model)

    model = LM(loaded.model.config, [longer.schedule])
    trained = dict(loaded.model.named_parameters())
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(trained[name] if name in trained else trained[last_row(name, trained)])
    assert torch.equal(logits(longer.model, longer.schedule), logits(model, longer.schedule))
    assert not torch.equal(logits(longer.model, longer.schedule), logits(loaded.model, loaded.schedule))


def last_row(name, trained):
    """Find the last trained namesake of a row: the name differs in one number, the row's."""
    parts = name.split(".")
    for place in range(2, len(parts)):  # the number after "blocks" is the block's
        if parts[place].isdigit():
            for row in range(int(parts[place]), -1, -1):
                earlier = ".".join([*parts[:place], str(row), *parts[place + 1 :]])
                if earlier in trained:
                    return earlier
    raise AssertionError(f"{name} has no trained namesake")


def test_fewer_loops_leave_the_trained_models_tail_out():
    loaded = load({"depth": {**DEPTH, "skips": "none"}, **BY_VISIT})
    shorter = loaded.under("0-3")
    flat = LM(loaded.model.config, [shorter.schedule])
    trained = dict(loaded.model.named_parameters())
    with torch.no_grad():
        for name, value in flat.named_parameters():
            value.copy_(trained[name])
    assert torch.equal(logits(shorter.model, shorter.schedule), logits(flat, shorter.schedule))


@pytest.mark.parametrize("case", CASES)
def test_what_longer_schedules_trained_is_left_out_and_the_rest_is_the_same_model(case):
    config = model_config(**CASES[case])
    own, longer = config.depth.parse(), config.depth.variant("0 (1-2)x4 3")
    drawn, packed = (LM(config, schedules) for schedules in ([longer, own], [own]))
    drawn.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in drawn.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
        trained = dict(drawn.named_parameters())
        for name, value in packed.named_parameters():
            value.copy_(trained[name])
    assert torch.equal(logits(packed, own), logits(drawn, own))


def test_one_token_at_a_time_is_the_same_under_another_schedule():
    longer = load(ALL_TOGETHER).under("0 (1-2)x3 3")
    text = tokens(2, 9).numpy()
    stepper = ModelStepper(longer)
    stepper.begin(2)
    stepped = [stepper.feed(text[:, place : place + 1]) for place in range(9)]
    whole = ModelPredictor(longer).log_probs(text)
    for place in range(9):
        torch.testing.assert_close(
            torch.from_numpy(stepped[place]), torch.from_numpy(whole[:, place]), atol=2e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-4", "^schedule '0-4' runs 5 blocks, the artifact has 4$"),
        ("0 2", "without a gap"),
        ("0 (1-2)x", "a group is written"),
        ("", "at least one block"),
    ],
)
def test_a_schedule_that_the_artifact_cannot_run_is_one_clear_line(text, message):
    with pytest.raises(RecipeError, match=message):
        load({}).under(text)


def test_what_the_residual_rule_cannot_run_is_refused():
    loaded = load({"residual": {"kind": "lanes", "from_block": 1}})
    with pytest.raises(RecipeError, match=r"^schedule '0-2 0 3' does not fit the artifact: .*block 0 would run after"):
        loaded.under("0-2 0 3")


@pytest.mark.parametrize("per", ["block", "visit"])
def test_a_schedule_that_begins_with_another_block_is_refused_where_the_first_values_are_mixed_in(per):
    loaded = load({"depth": {**DEPTH, "skips": "none"}, "values": [{"kind": "value_residual", "per": per}]})
    message = "'1 0 2 3' begins with block 1, the packed schedule with block 0, and model.values mixes in the values"
    with pytest.raises(RecipeError, match=message):
        loaded.under("1 0 2 3")
    load({"depth": {**DEPTH, "skips": "none"}}).under("1 0 2 3")


def test_no_visit_takes_its_weights_from_the_end_of_the_list():
    """A block's first visit has no row of a value residual where every trained schedule begins with it."""
    model = load(
        {"values": TECHNIQUES["value_residual by visit"]["values"], "depth": {"schedule": "0 1 0 2 0 3"}}
    ).model
    with pytest.raises(AssertionError, match="no row is of this visit"):
        model(tokens(1, 4), DepthSchedule.parse("1 0 2 3"))
