"""What a recipe lists acts somewhere, or is refused."""

import pytest

from models import ATTENTION, SMALL, model_config
from nutshell.errors import RecipeError
from nutshell.model.effects import active_at, check_effects
from nutshell.recipe import resolve

LOOPED, FLAT = "0 (1-2)x2 3", "0-3"


def check(schedules, **changes):
    config = model_config(**{"depth": {"schedule": schedules[-1]}, **changes})
    check_effects(config, [config.depth.variant(text) for text in schedules], longest_window=12)


def entry(*kinds):
    return {"residual": {"kind": "sequential", "entry": list(kinds)}}


WITHOUT_EFFECT = [
    ([LOOPED], entry({"kind": "birkhoff", "blocks": "0"}), "residual.entry: 'birkhoff' has no effect at any visit"),
    ([LOOPED], entry({"kind": "depth_sinusoid", "blocks": "0"}), "residual.entry: 'depth_sinusoid' has no effect"),
    ([LOOPED], {"modulate": [{"kind": "layer_scale", "blocks": "0"}]}, "modulate: 'layer_scale' has no effect"),
    ([LOOPED], {"modulate": [{"kind": "layer_scale", "by": "index", "blocks": "0"}]}, "'layer_scale' has no effect"),
    ([FLAT], {"attention": {**ATTENTION, "rotary": {"scaled_beyond": 12}}}, "no window has more than 12 tokens"),
    ([FLAT], {"depth": {"schedule": FLAT, "untied": "mlp"}}, "depth.untied 'mlp' has no effect: no block runs twice"),
    (
        ["0 1"],
        {"depth": {"schedule": "0 1", "skips": "mirror"}},
        "depth.skips 'mirror' has no effect: it makes no skip",
    ),
    (["0"], {"depth": {"schedule": "0", "skips": "stack"}}, "depth.skips 'stack' has no effect: it makes no skip in"),
]


@pytest.mark.parametrize(("schedules", "changes", "message"), WITHOUT_EFFECT)
def test_what_changes_nothing_at_any_visit_is_refused(schedules, changes, message):
    with pytest.raises(ValueError, match=message):
        check(schedules, **changes)


@pytest.mark.parametrize(
    ("schedules", "changes"),
    [
        (["0 0 1-3", LOOPED], entry({"kind": "birkhoff", "blocks": "0"})),
        (["0 0 1-3", LOOPED], {"modulate": [{"kind": "layer_scale", "by": "index", "blocks": "0"}]}),
        ([LOOPED, FLAT], {"depth": {"schedule": FLAT, "untied": "mlp"}}),
        (["0 1 0", "0 1"], {"depth": {"schedule": "0 1", "skips": "mirror", "join": {"kind": "gated_skip"}}}),
        ([LOOPED], entry({"kind": "depth_embedding"}, {"kind": "birkhoff", "blocks": "0"})),
        ([FLAT], {"attention": {**ATTENTION, "rotary": {"scaled_beyond": 11}}}),
    ],
)
def test_an_effect_under_one_of_the_schedules_is_enough(schedules, changes):
    check(schedules, **changes)


def test_weights_by_visit_may_stay_where_a_schedule_is_flattened():
    scales = {"kind": "branch_scale", "attention": "visit", "mlp": "visit"}
    check(
        [FLAT],
        modulate=[{"kind": "layer_scale", "by": "index"}, scales],
        attention={**ATTENTION, "q_gain_per": "visit"},
    )


@pytest.mark.parametrize("skips", ["none", []])
def test_a_join_without_skips_is_refused(skips):
    with pytest.raises(RecipeError, match=r"depth\.join has no effect: depth\.skips is 'none' or empty"):
        model_config(depth={**SMALL["depth"], "skips": skips, "join": {"kind": "gated_skip"}})


def test_a_recipe_is_checked_over_the_schedules_of_its_phases():
    untied = ["model.depth.untied=mlp", "model.depth.schedule='0-2'"]
    with pytest.raises(RecipeError, match=r"depth\.untied 'mlp' has no effect: no block runs twice in '0-2'"):
        resolve("demo", untied)
    resolve("demo", [*untied, "train.phases=[{until=0.5, schedule='0 (1)x2 2'}]"])


def birkhoff_at(*before):
    """List the virtual layers at which Birkhoff mixing acts behind other entries."""
    config = model_config(**entry(*before, {"kind": "birkhoff"}))
    schedule = config.depth.parse()
    places = config.places([schedule])
    found = [[active.kind for active in active_at(config, places[visit.block], visit)] for visit in schedule.visits]
    return [index for index, kinds in enumerate(found) if config.residual.entry[-1] in kinds]


@pytest.mark.parametrize(
    ("before", "first"),
    [
        ((), 1),  # x is x0 there
        (({"kind": "depth_embedding"},), 0),
        (({"kind": "depth_embedding", "blocks": "1-3"},), 1),
        (({"kind": "depth_sinusoid"},), 1),  # its first code is zero
        (({"kind": "x0_mix"},), 0),
    ],
)
def test_birkhoff_mixing_acts_once_the_stream_has_moved_from_the_embedded_input(before, first):
    assert birkhoff_at(*before) == list(range(first, 6))
