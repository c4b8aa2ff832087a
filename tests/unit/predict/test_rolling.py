"""Reading once with a rolling cache, against one token at a time with an explicit list of keys."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models import BOS, VOCAB, build_model, model_config
from nutshell.errors import RecipeError
from nutshell.nn.cache import KVCache
from nutshell.nn.rotary import Rotary
from nutshell.predict.predictor import ModelPredictor, ModelStepper
from nutshell.predict.rolling import RollingReader
from nutshell.score.frozen import score_documents
from nutshell.score.means import Means
from nutshell.score.rolling import score_rolling
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan
from one_by_one import read_one_by_one

CONTEXT = 8


class Letters:
    """A token is a letter; BOS is none."""

    bos_id, vocab_size = BOS, VOCAB

    def pieces(self, tokens):
        return [b"x" for _ in tokens]


def drawn(length, seed):
    return np.random.default_rng(seed).integers(BOS + 1, VOCAB, length)


DOCUMENTS = Documents.of_text([drawn(length, length) for length in (30, 7, 0, 8, 19, 21)], Letters(), 85)


def shipped_of(**changes):
    model, schedule = build_model(model_config(**changes))
    return SimpleNamespace(model=model.eval().requires_grad_(False), schedule=schedule, context=CONTEXT)


@pytest.fixture
def shipped():
    """A looped model in which two techniques look one token back."""
    return shipped_of(
        inputs=[{"kind": "bigram_hash", "buckets": 37, "dim": 6}, {"kind": "smear_gate"}],
        residual={"kind": "sequential", "entry": [{"kind": "stream_smear"}]},
    )


def by_hand(shipped, documents, plan):
    """Each document alone, one token at a time; nats in float64."""
    claims = []
    for track in documents.tracks():
        text = torch.from_numpy(track.inputs)[None]
        logits = read_one_by_one(shipped.model, shipped.schedule, text, context=plan.context, stride=plan.stride)
        log_probs = logits[0].double().log_softmax(dim=-1)
        claims.append(-log_probs[torch.arange(len(track.targets)), torch.from_numpy(track.targets)].sum().item())
    return claims


@pytest.mark.parametrize("stride", [1, 3, 5, 8])
@pytest.mark.parametrize("batch_tokens", [1, 10, 8_192])
def test_documents_are_read_as_one_token_at_a_time_with_a_window_of_keys(shipped, stride, batch_tokens):
    plan = WindowPlan(context=CONTEXT, stride=stride)
    reader = RollingReader(shipped, batch_tokens=batch_tokens)
    score = score_rolling(reader, DOCUMENTS, plan, means=Means(batch_tokens=batch_tokens))
    assert score.document_nats == pytest.approx(by_hand(shipped, DOCUMENTS, plan), abs=2e-5 * 31)
    assert score.tokens == DOCUMENTS.num_targets


def test_a_forward_has_no_more_tokens_than_it_may(shipped):
    sizes = []
    hook = shipped.model.blocks[0].register_forward_pre_hook(lambda _, args: sizes.append(args[2].tokens.shape))
    plan = WindowPlan(context=CONTEXT, stride=3)
    score_rolling(RollingReader(shipped, batch_tokens=12), DOCUMENTS, plan, means=Means(batch_tokens=12))
    hook.remove()
    assert max(rows * new for rows, new in sizes) == 12
    assert {(4, 3), (4, 2)} <= set(sizes), "four documents side by side read their first window in three pieces"


def test_a_window_of_the_whole_stride_is_disjoint_windows_to_the_bit(shipped):
    """Of the same rows: another number of them may be multiplied in another order."""
    plan = WindowPlan(context=CONTEXT, stride=CONTEXT)
    text = np.stack([drawn(3 * CONTEXT + 5, seed) for seed in (1, 2)])
    reader, predictor = RollingReader(shipped), ModelPredictor(shipped)
    for start, stop, _ in plan.windows(text.shape[1] - 1):
        window = text[:, start:stop], text[:, start + 1 : stop + 1]
        np.testing.assert_array_equal(reader.nats(*window), predictor.nats(*window))
    rolling = score_rolling(reader, DOCUMENTS, plan, means=Means())
    disjoint = score_documents(predictor, DOCUMENTS, plan)
    assert rolling.document_nats == pytest.approx(disjoint.document_nats, abs=1e-6)
    assert rolling.strategy.kind == "rolling"


def test_what_is_remembered_says_more_than_the_window_holds(shipped):
    """Two visits deep, a token that has left the window still counts; in sliding windows it cannot."""
    plan = WindowPlan(context=CONTEXT, stride=2)
    text = drawn(13, 3)[None]
    other = text.copy()
    other[0, 0] = (other[0, 0] + 1 - BOS) % (VOCAB - BOS - 1) + BOS + 1
    last = []
    for own in (text, other):
        reader = RollingReader(shipped)
        for start, stop, score_from in plan.windows(12):
            nats = reader.nats(own[:, start:stop], own[:, score_from + 1 : stop + 1])
        assert start > 1
        last.append(nats)
    assert (last[0] != last[1]).all()


def test_rows_leave_and_the_others_stay(shipped):
    text = np.stack([drawn(14, seed) for seed in range(3)])
    alone, together = RollingReader(shipped), RollingReader(shipped)
    for reader, rows in ((alone, [0, 2]), (together, [0, 1, 2])):
        reader.begin(len(rows))
        reader.nats(text[rows, :8], text[rows, 1:9])
    together.keep(np.array([0, 2]))
    windows = text[[0, 2], 3:11], text[[0, 2], 9:12]
    np.testing.assert_allclose(together.nats(*windows), alone.nats(*windows), rtol=0, atol=2e-5)


def test_a_stream_is_read_across_documents(shipped):
    plan = WindowPlan(context=CONTEXT, stride=3)
    score = score_rolling(RollingReader(shipped), DOCUMENTS, plan, unit="stream", means=Means())
    track = DOCUMENTS.stream()
    logits = read_one_by_one(
        shipped.model, shipped.schedule, torch.from_numpy(track.inputs)[None], context=CONTEXT, stride=3
    )
    expected = F.cross_entropy(logits[0].double(), torch.from_numpy(track.targets), reduction="sum").item()
    assert score.total_nats == pytest.approx(expected, abs=2e-5 * score.tokens)
    assert (score.strategy.unit, score.document_nats) == ("stream", ())


def test_a_stream_keeps_documents_apart_where_attention_does():
    shipped = shipped_of(attention={"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "within_documents": True})
    plan = WindowPlan(context=CONTEXT, stride=3)
    track = DOCUMENTS.stream()
    logits = read_one_by_one(
        shipped.model, shipped.schedule, torch.from_numpy(track.inputs)[None], context=CONTEXT, stride=3
    )
    expected = F.cross_entropy(logits[0].double(), torch.from_numpy(track.targets), reduction="sum").item()
    score = score_rolling(RollingReader(shipped), DOCUMENTS, plan, unit="stream", means=Means())
    assert score.total_nats == pytest.approx(expected, abs=2e-5 * score.tokens)


def test_a_cache_without_a_token_begins_again():
    cache = KVCache(capacity=4)
    cache.extend(0, torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2))
    cache.exchange_tail("x", torch.ones(1, 3))
    cache.advance(3)
    cache.forget_all_but(3)
    assert (cache.length, cache.forgotten, cache.position) == (3, 0, 3)
    cache.forget_all_but(1)
    assert (cache.length, cache.forgotten, cache.position) == (1, 2, 3)
    assert cache.exchange_tail("x", torch.ones(1, 1)) is not None
    cache.forget_all_but(0)
    assert (cache.length, cache.forgotten, cache.position) == (0, 0, 0)
    assert cache.exchange_tail("x", torch.ones(1, 1)) is None


@pytest.mark.parametrize("start", [100_000, 50_000_000])
def test_angles_of_far_positions_are_exact(start):
    near = Rotary.at(0, 1, dims=8, base=10_000.0, device=torch.device("cpu"))
    found = Rotary.at(start, 3, dims=8, base=10_000.0, device=torch.device("cpu"), far=True)
    frequencies = torch.tensor([10_000.0 ** (-i / 4) for i in range(4)], dtype=torch.float32).double().tolist()
    expected = [[math.cos((start + t) * frequency) for frequency in frequencies] for t in range(3)]
    torch.testing.assert_close(found.cos, torch.tensor(expected), atol=1e-6, rtol=0)
    assert found.cos.dtype == near.cos.dtype == torch.float32


def test_reading_from_far_away_is_reading_from_the_start(shipped):
    """Distances alone count, so a text that begins at position 10,000,000 costs what it costs at 0."""
    text = torch.from_numpy(drawn(17, 5)[None])
    read = []
    for offset in (0, 10_000_000):
        cache, pieces = KVCache(CONTEXT), []
        cache.forgotten = offset
        for start, stop in ((0, 8), (8, 11), (11, 14), (14, 17)):
            if start:
                cache.forget_all_but(5)
            pieces.append(shipped.model(text[:, start:stop], shipped.schedule, cache=cache))
        assert cache.position == offset + 17
        read.append(torch.cat(pieces, dim=1))
    torch.testing.assert_close(*read, atol=2e-5, rtol=0)
    assert not torch.equal(*read)


MAKERS = [ModelPredictor, ModelStepper, RollingReader]
DIMS = 8


def last_log_probs(made, text):
    """The distribution after a text that fills one window, in a form that all three have in common."""
    if isinstance(made, ModelPredictor):
        return made.log_probs(text)[:, -1]
    if isinstance(made, ModelStepper):
        made.begin(len(text))
        return made.feed(text)
    targets = np.tile(text, (VOCAB, 1))
    targets[:, -1] = np.arange(VOCAB)
    made.begin(VOCAB)
    return -made.nats(np.tile(text, (VOCAB, 1)), targets)[:, -1:].T


@pytest.mark.parametrize("made_by", MAKERS)
@pytest.mark.parametrize(
    ("rotary", "context", "positions", "base"),
    [
        ({}, 6, "rescaled", 10_000.0),
        ({}, 8, "rescaled", 10_000.0),
        ({}, 20, "rescaled", 10_000.0 * (20 / 8) ** (8 / 6)),
        ({}, 20, "plain", 10_000.0),
        ({"dims": 4}, 20, "rescaled", 10_000.0 * (20 / 8) ** 2),
        # Trained at 8 with a base for 8: what the recipe scales by goes on, and shorter windows keep what was trained.
        ({"scaled_beyond": 4}, 20, "rescaled", 10_000.0 * 5 ** (8 / 6)),
        ({"scaled_beyond": 4}, 20, "plain", 10_000.0 * 2 ** (8 / 6)),
        ({"scaled_beyond": 4}, 6, "rescaled", 10_000.0 * 2 ** (8 / 6)),
    ],
)
def test_positions_in_another_context_have_the_published_base(made_by, rotary, context, positions, base):
    attention = {"num_heads": 4, "num_kv_heads": 2, "head_dim": DIMS}
    shipped = shipped_of(attention={**attention, "rotary": rotary})
    fixed = {name: value for name, value in rotary.items() if name == "dims"}
    twin = shipped_of(attention={**attention, "rotary": {**fixed, "base": base}})
    made = made_by(shipped, context=context, positions=positions)
    assert made.context == context
    text = drawn(context, 1)[None]
    with torch.no_grad():
        expected = twin.model(torch.from_numpy(text), twin.schedule)[:, -1].log_softmax(dim=-1).numpy()
    np.testing.assert_allclose(last_log_probs(made, text), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("made_by", MAKERS)
@pytest.mark.parametrize("context", [0, 131_073])
def test_a_context_that_no_model_takes_is_refused(shipped, made_by, context):
    with pytest.raises(RecipeError, match=f"scoring context {context}: choose from 1 to 131072 tokens, which a cache"):
        made_by(shipped, context=context)
    made_by(shipped, context=131_072)


def test_two_channels_have_no_base_to_rescale():
    shipped = shipped_of(attention={"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "rotary": {"dims": 2}})
    with pytest.raises(RecipeError, match="windows of 9 tokens, trained with 8: rotary positions of two channels have"):
        ModelPredictor(shipped, context=9)
    ModelPredictor(shipped, context=9, positions="plain")
    none = shipped_of(attention={"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "rotary": {"dims": 0}})
    text = drawn(12, 2)[None]
    with torch.no_grad():
        expected = none.model(torch.from_numpy(text), none.schedule)[:, -1].log_softmax(dim=-1).numpy()
    np.testing.assert_allclose(last_log_probs(ModelPredictor(none, context=12), text), expected, rtol=0, atol=2e-5)
