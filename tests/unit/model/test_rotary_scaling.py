"""Rotary positions whose base grows with the window, against float64 loops."""

import math

import pytest
import torch

from models import ATTENTION, build_model, model_config, tokens
from nutshell.errors import RecipeError
from nutshell.nn.cache import KVCache
from nutshell.recipe import resolve

TRAINED, DIMS = 6, 8


def scaled(**rotary):
    return model_config(attention={**ATTENTION, "rotary": {"scaled_beyond": TRAINED, **rotary}})


def angles_of(model, text, **options):
    rotary = model.stream(text, dtype=torch.float32, attend_kind="products", **options).rotary
    return torch.atan2(rotary.sin, rotary.cos)


def expected_angles(length, window):
    base = 10_000.0 * (window / TRAINED) ** (DIMS / (DIMS - 2)) if window > TRAINED else 10_000.0
    turned = [[t / base ** (2 * i / DIMS) for i in range(DIMS // 2)] for t in range(length)]
    return torch.tensor([[math.remainder(angle, math.tau) for angle in row] for row in turned])


@pytest.mark.parametrize(("length", "window"), [(6, None), (7, None), (12, None), (5, 12), (12, 4)])
def test_the_base_grows_with_windows_beyond_the_length(length, window):
    model, _ = build_model(scaled())
    base = None if window is None else model.config.attention.rotary.base_in(window, DIMS)
    found = angles_of(model, tokens(1, length), rotary_base=base)
    torch.testing.assert_close(found, expected_angles(length, window or length))


def test_the_slowest_channel_turns_over_a_long_window_as_far_as_over_a_short_one():
    model, _ = build_model(scaled())
    short, long = (angles_of(model, tokens(1, length))[:, -1] for length in (TRAINED, 4 * TRAINED))
    torch.testing.assert_close(long[4], short[1])


def test_the_published_base_of_686():
    assert model_config(
        attention={**ATTENTION, "head_dim": 16, "rotary": {"scaled_beyond": 1024}}
    ).attention.rotary.base_in(2048, 16) == pytest.approx(22_081.79, abs=0.01)


def test_a_cache_scales_for_what_it_has_room_for():
    model, schedule = build_model(scaled())
    text, cache = tokens(2, 11), KVCache(capacity=11)
    with torch.no_grad():
        full = model(text, schedule)
        pieces = [model(text[:, start:stop], schedule, cache=cache) for start, stop in [(0, 4), (4, 5), (5, 11)]]
    torch.testing.assert_close(torch.cat(pieces, dim=1), full, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("rotary", "message"),
    [
        ({"dims": 2}, "rotary.scaled_beyond needs rotary.dims of at least 4, got 2"),
        ({"dims": 0}, "rotary.scaled_beyond needs rotary.dims of at least 4, got 0"),
        ({"scaled_beyond": 0}, "rotary.scaled_beyond 0 must be at least 1"),
    ],
)
def test_what_cannot_be_scaled_is_refused(rotary, message):
    with pytest.raises(RecipeError, match=message):
        scaled(**rotary)


def test_a_recipe_that_never_exceeds_the_length_is_refused():
    changes = ["model.attention.rotary.scaled_beyond=1024", "train.seq_len=1024"]
    with pytest.raises(RecipeError, match=r"rotary\.scaled_beyond 1024 has no effect: no window has more than 1024"):
        resolve("share-run-g", changes)
    resolve("share-run-g", [changes[0], "train.seq_len=2048"])
