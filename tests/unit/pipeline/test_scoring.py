"""What an artifact is scored by unless told, and the definitions that stand beside it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from models import BOS, VOCAB, build_model, model_config
from nutshell.artifact.load import Loaded
from nutshell.pipeline.scoring import score_every_way
from nutshell.pipeline.strategies import Disjoint, Rolling, Sliding, own_strategy
from nutshell.ranks import ALONE
from nutshell.score.means import Means
from nutshell.score.text import Documents

CONTEXT, STRIDE = 8, 3


class Letters:
    bos_id, vocab_size = BOS, VOCAB

    def pieces(self, tokens):
        return [b"x" for _ in tokens]


DRAWN = [np.random.default_rng(length).integers(BOS + 1, VOCAB, length) for length in (30, 7, 0, 19)]
DOCUMENTS = Documents.of_text(DRAWN, Letters(), 56)


@pytest.fixture(scope="module")
def loaded():
    model, schedule = build_model(model_config())
    return Loaded(model.eval(), schedule, Letters(), context=CONTEXT, stride=STRIDE, recipe="")


def test_the_recipe_says_how_windows_advance(loaded):
    rolling = replace(loaded, windows="rolling")
    assert own_strategy(loaded) == Sliding()
    assert own_strategy(rolling) == Rolling()
    assert own_strategy(rolling, stride=5) == Rolling(stride=5)
    assert own_strategy(loaded, stride=CONTEXT) == own_strategy(rolling, stride=CONTEXT) == Disjoint()
    assert own_strategy(replace(loaded, stride=CONTEXT)) == Disjoint()


@pytest.mark.parametrize("own", [Sliding(), Rolling(), Disjoint()])
def test_every_way_of_scoring_is_the_way_alone(loaded, own):
    found = score_every_way(loaded, DOCUMENTS, own)
    alone = [way.score(loaded, DOCUMENTS, Means(), ALONE) for way in (own, Disjoint(), Disjoint(unit="stream"))]
    assert list(found) == alone
    assert len({score.bpb for score in found}) == (2 if own == Disjoint() else 3)
    assert found.own.strategy.kind == own.__struct_config__.tag


@pytest.mark.parametrize(
    ("own", "read"),
    [
        # Of 31, 8, 1 and 20 targets, in windows of 8 by 3 and the tail; then each once by document, and as a stream.
        (Sliding(), 8 + 7 * 8 + (31 - 24) + 8 + 1 + 8 + 4 * 8 + 60 + 59),
        (Rolling(), 60 + 60 + 59),
        (Disjoint(), 60 + 59),
    ],
)
def test_one_progress_runs_over_every_way_and_none_is_scored_twice(loaded, own, read):
    seen = []
    score_every_way(loaded, DOCUMENTS, own, progress=lambda *done: seen.append(done))
    assert {total for _, total in seen} == {read}
    assert seen[-1] == (read, read)
    assert all(left[0] < right[0] for left, right in pairwise(seen))
