"""Scores by passes against every window by itself: streams caught by a hook, sums written out."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models import ALL_TOGETHER, BOS, TECHNIQUES, VOCAB, build_model, model_config
from nutshell.artifact.load import Loaded
from nutshell.errors import RecipeError, UsageError
from nutshell.pipeline import store
from nutshell.pipeline.passes import read_passes, score_passes
from nutshell.pipeline.strategies import Rolling
from nutshell.predict.predictor import ModelPredictor
from nutshell.ranks import ALONE
from nutshell.score.frozen import score_documents
from nutshell.score.means import Means
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan

CONTEXT, STRIDE = 8, 3
MODELS = {"all together": ALL_TOGETHER, "lanes": TECHNIQUES["lanes"], "skips": TECHNIQUES["add_skip"]}


class Letters:
    """A token is a letter; BOS is none."""

    bos_id, vocab_size = BOS, VOCAB

    def pieces(self, tokens):
        return [b"x" for _ in tokens]


DRAWN = [np.random.default_rng(length).integers(BOS + 1, VOCAB, length) for length in (30, 7, 0, 19, 20)]
DOCUMENTS = Documents.of_text(DRAWN, Letters(), 76)
WINDOWS = [
    [BOS, *tokens.tolist()][start : start + CONTEXT] for tokens in DRAWN for start in range(0, len(tokens) + 1, CONTEXT)
]


def artifact_of(changes, monkeypatch):
    """Stand in for an artifact and its data set, which other tests read from files."""
    model, schedule = build_model(model_config(**changes))
    loaded = Loaded(model.eval(), schedule, Letters(), context=CONTEXT, stride=STRIDE, recipe="")
    monkeypatch.setattr(store, "open_artifact", lambda _: (b"bytes", loaded))
    monkeypatch.setattr(store, "open_documents", lambda *_: (SimpleNamespace(digest="d"), DOCUMENTS))
    return loaded


def read(numbers=range(1, 5), **options):
    options.setdefault("progress", lambda *_: None)
    return score_passes(Path("a"), Path("d"), numbers, **options)


def ends_of_passes(loaded, window, passes):
    """The stream after block 2 of `0 (1-2)xN 3`, pass by pass, as lists of numbers."""
    streams = []
    hook = loaded.model.blocks[2].register_forward_hook(lambda _, args, out: streams.append(out[0]))
    with torch.no_grad():
        loaded.model(torch.tensor([window]), loaded.schedule.extended(f"0 (1-2)x{passes} 3"))
    hook.remove()
    return [torch.cat(x if isinstance(x, tuple) else (x,), dim=-1).flatten().double().tolist() for x in streams]


def rms(values):
    values = list(values)
    return math.sqrt(sum(value * value for value in values) / len(values))


@pytest.fixture(params=MODELS)
def loaded(request, monkeypatch):
    return artifact_of(MODELS[request.param], monkeypatch)


def test_every_number_of_passes_is_scored_by_its_own_schedule(loaded):
    found = read()
    assert (found["schedule"], found["trained_schedule"]) == ("0 (1-2)x2 3", "0 (1-2)x2 3")
    assert (found["context"], found["stride"], found["tokens"], found["bytes"]) == (8, 3, 81, 76)
    (loop,) = found["loops"]
    assert loop["loop"] == "(1-2)x2"
    assert [row["passes"] for row in loop["passes"]] == [1, 2, 3, 4]
    plan = WindowPlan(context=CONTEXT, stride=STRIDE)
    for row in loop["passes"]:
        assert row["schedule"] == f"0 (1-2)x{row['passes']} 3"
        alone = score_documents(ModelPredictor(loaded.under(row["schedule"])), DOCUMENTS, plan)
        assert (row["bpb"], row["nats_per_token"]) == (alone.bpb, alone.nats_per_token)
    assert len({row["bpb"] for row in loop["passes"]}) == 4


def test_no_extra_pass_is_the_normal_forward_to_the_bit(loaded):
    own = score_documents(ModelPredictor(loaded), DOCUMENTS, WindowPlan(context=CONTEXT, stride=STRIDE))
    (loop,) = read(range(2, 3))["loops"]
    assert [(row["passes"], row["bpb"]) for row in loop["passes"]] == [(2, own.bpb)]
    (loop,) = read(range(2, 3), stride=CONTEXT)["loops"]
    assert loop["passes"][0]["bpb"] != own.bpb


def test_windows_that_roll_roll_under_every_number_of_passes(monkeypatch):
    loaded = artifact_of(ALL_TOGETHER, monkeypatch)
    rolling = replace(loaded, windows="rolling")
    monkeypatch.setattr(store, "open_artifact", lambda _: (b"bytes", rolling))
    found = read(range(2, 4))
    assert (found["windows"], found["context"], found["stride"]) == ("rolling", CONTEXT, STRIDE)
    for row in found["loops"][0]["passes"]:
        alone = Rolling().score(loaded.under(row["schedule"]), DOCUMENTS, Means(), ALONE)
        slid = score_documents(
            ModelPredictor(loaded.under(row["schedule"])), DOCUMENTS, WindowPlan(context=CONTEXT, stride=STRIDE)
        )
        assert row["bpb"] == alone.bpb != slid.bpb


def test_changes_are_those_of_every_window_by_itself(loaded):
    (loop,) = read()["loops"]
    assert loop["windows"] == len(WINDOWS)
    assert loop["passes"][0]["change"] is None
    alone = [ends_of_passes(loaded, window, 4) for window in WINDOWS]
    before = None
    for number, row in enumerate(loop["passes"][1:], start=1):
        changes = [[b - a for a, b in zip(ends[number - 1], ends[number], strict=True)] for ends in alone]
        relative = [rms(change) / (rms(ends[number - 1]) + 1e-8) for change, ends in zip(changes, alone, strict=True)]
        delta = sum(relative) / len(relative)
        found = row["change"]
        assert found["increment"] == pytest.approx(rms(value for change in changes for value in change), rel=1e-4)
        assert found["delta"] == pytest.approx(delta, rel=1e-4)
        assert found["ratio"] == (None if before is None else pytest.approx(delta / before, rel=1e-4))
        shares = {eps: sum(value < float(eps) for value in relative) / len(relative) for eps in found["below"]}
        assert found["below"] == pytest.approx(shares)
        before = delta


def test_shares_below_a_bound_are_of_windows(loaded, monkeypatch):
    middle = read(range(2, 3))["loops"][0]["passes"][0]["change"]["delta"]
    monkeypatch.setattr("nutshell.pipeline.passes.EPS", (1e9, middle, 1e-9))
    below = read(range(2, 3))["loops"][0]["passes"][0]["change"]["below"]
    relative = [
        rms(b - a for a, b in zip(*ends, strict=True)) / rms(ends[0])
        for ends in (ends_of_passes(loaded, window, 2) for window in WINDOWS)
    ]
    share = sum(value < middle for value in relative) / len(relative)
    assert 0 < share < 1
    assert below == {"1000000000.0": 1.0, str(middle): pytest.approx(share), "1e-09": 0.0}


def test_a_part_of_the_passes_has_the_same_numbers(loaded):
    whole, part = (read(numbers)["loops"][0]["passes"] for numbers in (range(1, 5), range(3, 5)))
    assert [row["bpb"] for row in part] == [row["bpb"] for row in whole[2:]]
    for left, right in zip(part, whole[2:], strict=True):
        assert left["change"] == right["change"]
    (once,) = read(range(1, 2))["loops"][0]["passes"]
    assert once == whole[0]


def test_each_loop_is_varied_alone(monkeypatch):
    artifact_of({"depth": {"schedule": "(0-1)x2 (2-3)x3"}}, monkeypatch)
    found = read(range(1, 3), schedule="(0)x2 1 (2-3)x2")
    assert [loop["loop"] for loop in found["loops"]] == ["(0)x2", "(2-3)x2"]
    assert [[row["schedule"] for row in loop["passes"]] for loop in found["loops"]] == [
        ["(0)x1 1 (2-3)x2", "(0)x2 1 (2-3)x2"],
        ["(0)x2 1 (2-3)x1", "(0)x2 1 (2-3)x2"],
    ]
    assert len({row["bpb"] for loop in found["loops"] for row in loop["passes"]}) == 3


def test_a_loop_may_be_seen_in_an_order_that_was_trained_without_one(monkeypatch):
    artifact_of({"depth": {"schedule": "0 1 2 1 2 3"}}, monkeypatch)
    found = read(range(1, 3), schedule="0 (1-2)x2 3")
    assert (found["schedule"], found["trained_schedule"]) == ("0 (1-2)x2 3", "0 1 2 1 2 3")
    assert [row["schedule"] for row in found["loops"][0]["passes"]] == ["0 (1-2)x1 3", "0 1 2 1 2 3"]


def test_progress_goes_from_the_first_token_to_the_last(loaded):
    seen = []
    read(range(1, 4), progress=lambda *done: seen.append(done))
    later = [range(STRIDE, len(tokens) + 1 - (CONTEXT - STRIDE), STRIDE) for tokens in DRAWN]  # starts of windows
    inputs = sum(
        min(CONTEXT, length - start)
        for length, starts in zip((len(tokens) + 1 for tokens in DRAWN), later, strict=True)
        for start in (0, *starts)
    )
    total = 3 * inputs + 81
    assert {of for _, of in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == total


def test_what_has_no_loop_is_refused(monkeypatch):
    artifact_of({"depth": {"schedule": "0-3"}}, monkeypatch)
    with pytest.raises(UsageError, match="--passes: '0-3' has no loop; give --schedule with one, written"):
        read()
    read(range(1, 2), schedule="0 (1-2)x2 3")
    with pytest.raises(RecipeError, match="more than 512 virtual layers"):
        read(range(256, 257), schedule="0 (1-2)x2 3")
    with pytest.raises(RecipeError, match=r"a group is written \(blocks\)xN"):
        read(schedule="0 (1-2")


@pytest.mark.parametrize(("text", "numbers"), [("1-6", range(1, 7)), ("3", range(3, 4)), ("2-2", range(2, 3))])
def test_passes_are_read_as_written(text, numbers):
    assert read_passes(text) == numbers


@pytest.mark.parametrize("text", ["", "0-3", "4-2", "-2", "1-", "1-2-3", "two", "1.5", "1-9999"])
def test_what_is_no_number_of_passes_gets_one_line(text):
    with pytest.raises(UsageError, match=r"--passes .*: give the fewest and the most, as in --passes 1-6"):
        read_passes(text)
