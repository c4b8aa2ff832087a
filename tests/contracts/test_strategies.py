"""What every strategy of scoring must keep: each target once, the same on any number of processes, no look ahead.

Add a strategy as a line in `STRATEGIES`: as it is written on the command line, at sizes that suit a text of a few
hundred tokens; one that learns names the setting of its rate.
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from models import BOS, VOCAB, build_model, model_config
from nutshell.artifact.load import Loaded
from nutshell.audit.changes import probe_flips
from nutshell.audit.noise import probe_noise
from nutshell.audit.normalised import probe_normalised
from nutshell.audit.subjects import Online
from nutshell.errors import BudgetError, DataError, LegalityError, RecipeError
from nutshell.pipeline.coding import online_predictor
from nutshell.pipeline.strategies import as_scored, read_strategy
from nutshell.predict.predictor import ModelPredictor
from nutshell.ranks import ALONE
from nutshell.score.chunks import score_in_chunks
from nutshell.score.layout import Layout, Shape
from nutshell.score.ledger import Strategy
from nutshell.score.means import Budget, Means
from nutshell.score.rows import RowPlan, StepRule, score_in_rows
from nutshell.score.text import Documents
from nutshell.score.walk import decode, encode
from nutshell.score.windows import WindowPlan
from teams import score_together


class Case(NamedTuple):
    text: str
    rate: str = ""
    tolerance: float = 1e-9  # relative, of the nats on several processes


STRATEGIES = {
    "disjoint": Case("disjoint"),
    "disjoint over the stream": Case("disjoint,unit=stream"),
    "sliding": Case("sliding,stride=3"),
    "sliding in longer windows": Case("sliding,stride=5,context=24"),
    "sliding, mixed": Case("sliding,stride=3,mixture={order = 3}"),
    "rolling, mixed by the text": Case("rolling,stride=4,mixture={scope = 'text'}"),
    "rolling": Case("rolling,stride=4"),
    "rolling over the stream": Case("rolling,stride=4,unit=stream"),
    # Gradients of several processes are summed in another order.
    "chunked SGD": Case("chunked_sgd,stride=4,chunk_targets=50", "learner.lr", 1e-6),
    "chunked SGD over the stream": Case("chunked_sgd,stride=4,chunk_targets=50,unit=stream", "learner.lr", 1e-6),
    "document adapters": Case("document_adapters,steps=[{targets = 4}],group_targets=100", "learner.lr"),
    "document adapters, mixed": Case("document_adapters,steps=[{targets = 4}],group_targets=100,mixture={}"),
    "document adapters in phases": Case(
        "document_adapters,steps=[{targets = 4}],group_targets=60,"
        "phases={number = 3, learner = {lr = 0.1, batch_targets = 32}}",
        tolerance=1e-6,
    ),
}


class Tokenizer:
    """A token stands for a byte, but for BOS."""

    bos_id, vocab_size = BOS, VOCAB

    def pieces(self, tokens):
        return [b"x"] * len(tokens)


def text_of(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(BOS + 1, VOCAB, length) for length in lengths]
    return Documents.of_text(tokens, Tokenizer(), sum(lengths))


class Frozen(ModelPredictor):
    """Rows that learn nothing."""

    def begin(self, rows):
        pass

    def observe(self, scored):
        pass

    def keep(self, rows):
        pass


DOCUMENTS = text_of(61, 7, 30, 1, 45, 90, 16)


@pytest.fixture(scope="module")
def loaded():
    model, schedule = build_model(model_config())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)
    model.eval().requires_grad_(False)
    return Loaded(model, schedule, Tokenizer(), context=12, stride=6, recipe="")


@pytest.fixture(params=STRATEGIES)
def case(request):
    return STRATEGIES[request.param]


def score(text, loaded, documents=DOCUMENTS, ranks=ALONE, **means):
    means = Means(batch_tokens=64, team=ranks, **means)
    return read_strategy(text).score(loaded, documents, means, ranks)


def test_each_target_is_scored_and_the_strategy_says_how(case, loaded):
    result = score(case.text, loaded)
    kind = case.text.partition(",")[0]
    assert result.strategy.kind == kind
    stream = "unit=stream" in case.text
    assert result.tokens == DOCUMENTS.num_targets - stream
    assert (result.bytes, result.coverage, result.metric) == (DOCUMENTS.num_bytes, 1.0, "bpb")
    assert result.strategy.unit == ("stream" if stream else "document")


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_give_the_same_nats(case, loaded, size):
    alone = score(case.text, loaded)
    together = score_together(size, lambda member: score(case.text, loaded, ranks=member))
    for each in together:
        assert each.total_nats == together[0].total_nats
        assert each.total_nats == pytest.approx(alone.total_nats, rel=case.tolerance)


def test_the_future_changes_no_document_before_it(case, loaded):
    if "unit=stream" in case.text:
        pytest.skip("a stream makes no claim about single documents")
    tokens = [*DOCUMENTS.tokens]
    tokens[5] = (tokens[5] - BOS) % (VOCAB - BOS - 1) + BOS + 1
    changed = replace(DOCUMENTS, tokens=tuple(tokens))
    before, after = score(case.text, loaded), score(case.text, loaded, changed)
    assert after.document_nats[:5] == pytest.approx(before.document_nats[:5], rel=1e-6)
    assert abs(after.document_nats[5] - before.document_nats[5]) > 1e-3


@pytest.mark.parametrize("name", [name for name, case in STRATEGIES.items() if case.rate])
def test_at_rate_zero_a_learner_is_the_frozen_model(name, loaded):
    """To the bit: the frozen one is read in the same chunks and batches, since other batches round differently."""
    case = STRATEGIES[name]
    zero = score(f"{case.text},{case.rate}=0.0", loaded)
    assert abs(score(f"{case.text},{case.rate}=0.1", loaded).total_nats - zero.total_nats) > 1e-2
    plan = WindowPlan(context=zero.strategy.context, stride=zero.strategy.stride)
    strategy, means = Strategy.of(plan, zero.strategy.unit), Means(batch_tokens=64)
    if "adapters" in name:
        rows = RowPlan(context=plan.context, steps=(StepRule(targets=plan.stride),), group_targets=100)
        frozen = score_in_rows(Frozen(loaded), DOCUMENTS, rows, strategy, means=means)
    else:
        frozen = score_in_chunks(ModelPredictor(loaded), DOCUMENTS, plan, strategy, chunk_targets=50, means=means)
    assert zero.total_nats == frozen.total_nats
    assert zero.document_nats == frozen.document_nats


def test_a_stride_of_the_whole_context_is_disjoint_windows_to_the_bit(loaded):
    assert score("sliding,stride=12", loaded).document_nats == score("disjoint", loaded).document_nats


class Listening:
    """Adds up what an online predictor gives the tokens that it is then told."""

    def __init__(self, predictor):
        self.predictor, self.vocab_size, self.in_order = predictor, predictor.vocab_size, predictor.in_order
        self.nats = []  # of each row and step

    def begin(self, rows):
        self.predictor.begin(rows)

    def predict(self):
        self.log_probs = np.asarray(self.predictor.predict(), np.float64)
        assert np.abs(np.log(np.exp(self.log_probs).sum(axis=1))).max() < 1e-5
        return self.log_probs

    def tell(self, tokens):
        self.nats.append(-self.log_probs[np.arange(len(tokens)), tokens])
        self.predictor.tell(tokens)

    def keep(self, rows):
        self.predictor.keep(rows)


PROVABLE = [case for case in STRATEGIES.values() if "unit=stream" not in case.text and "phases" not in case.text]


@pytest.mark.parametrize("case", PROVABLE, ids=lambda case: case.text)
def test_a_decoder_predicts_what_was_claimed_for_every_document_and_can_read_it_back(case, loaded):
    claimed = score(case.text, loaded)
    strategy = as_scored(claimed.strategy)
    shape = Shape(in_order=strategy.online(loaded, 1).in_order, rows=3, piece_tokens=100)
    documents = shape.arrange(DOCUMENTS)
    layout = Layout.of(documents, claimed.strategy, shape)
    nats = dict.fromkeys(DOCUMENTS.ids, 0.0)
    for piece in layout.batches():
        own = {place: documents.tokens[place] for batch in piece for place in batch}
        encoding = Listening(online_predictor(loaded, layout))
        bits = encode(encoding, layout, piece, own)
        decoding = Listening(online_predictor(loaded, layout))
        decoded = decode(decoding, layout, piece, bits)
        assert decoded.fault == ""
        assert all(np.array_equal(decoded.tokens[place], own[place]) for place in own)
        assert all(np.array_equal(*pair) for pair in zip(encoding.nats, decoding.nats, strict=True))
        rows = iter(encoding.nats)
        for batch in piece:
            for position in range(max(len(own[place]) for place in batch) + 1):
                for place, value in zip([p for p in batch if position <= len(own[p])], next(rows), strict=True):
                    nats[documents.ids[place]] += value
    assert list(nats.values()) == pytest.approx(claimed.document_nats, rel=3e-6)


@pytest.mark.parametrize("case", PROVABLE, ids=lambda case: case.text)
def test_no_probe_of_the_audit_finds_anything(case, loaded):
    """With fifty seeds, on little noise each: an alarm would be false. The changes are tried with one."""
    strategy = read_strategy(case.text)
    in_order = strategy.online(loaded, 1).in_order
    subject = Online(
        lambda total: nullcontext(strategy.online(loaded, total)),
        vocab_size=VOCAB,
        bos_id=BOS,
        independent=not in_order,
        rows=1 if in_order else 8,
    )
    for seed in range(50):
        verdict = probe_noise(subject, tokens=48, seed=seed)
        assert verdict.answer == "cannot tell", verdict  # of so little
    text = np.concatenate([[BOS], *([*tokens[:40], BOS] for tokens in DOCUMENTS.tokens)]).astype(np.int64)
    assert probe_normalised(subject, text, most_calls=0).answer == "passed"
    assert probe_flips(subject, np.tile(text, 2)[: 2 * len(text) - 1], seed=0).answer == "passed"


def test_what_no_decoder_can_follow_is_refused(loaded):
    for text, message in [
        ("sliding,unit=stream", "only one by document can"),
        ("document_adapters,steps=[{targets = 4}],learner.keep_a=true", "phases or keep_a cannot be proved"),
        (
            "document_adapters,steps=[{targets = 4}],phases={number = 3, learner = {lr = 0.1}}",
            "phases or keep_a cannot be proved",
        ),
        ("document_adapters,steps=[{targets = 2, up_to = 9}, {targets = 4}]", "steps that go by the length"),
    ]:
        with pytest.raises(LegalityError, match=message):
            read_strategy(text).online(loaded, 100)


@pytest.mark.parametrize("text", [case.text for case in STRATEGIES.values() if "_targets" in case.text])
def test_a_budget_too_small_for_one_chunk_gets_one_line(text, loaded):
    clock = iter(range(0, 1000, 10)).__next__
    with pytest.raises(BudgetError, match="too small for one chunk"):
        score(text, loaded, budget=Budget(15, clock))


def test_bad_input_gets_one_line(loaded):
    other = Tokenizer()
    other.vocab_size = VOCAB + 1
    with pytest.raises(DataError, match="tokenize the text with the model's tokenizer"):
        score("disjoint", loaded, replace(DOCUMENTS, tokenizer=other))
    with pytest.raises(RecipeError, match="scoring context 999999999"):
        score("sliding,context=999999999,stride=6", loaded)
    flat, schedule = build_model(model_config(depth={"schedule": "0-1"}))
    with pytest.raises(RecipeError, match="untie has no effect"):
        score("chunked_sgd,learner.untie=true", replace(loaded, model=flat, schedule=schedule))
    with pytest.raises(DataError, match="no BOS in this text says where documents begin"):
        score("document_adapters,steps=[{targets = 4}]", loaded, replace(DOCUMENTS, bounded=False))
    kept = "document_adapters,learner.keep_a=true,steps=[{targets = 4}]"
    with pytest.raises(RecipeError, match=r"keep_a .* one process"):
        score_together(2, lambda member: score(kept, loaded, ranks=member))
