"""Mixtures of a model with counts, against sums written out over a plain list of what came before."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutshell.score.mixtures import Ngram, NgramConfig

VOCAB = 5


class Reference:
    """The formula of the module over a list of all (context, target), searched anew for each target."""

    def __init__(self, config):
        self.config = config
        self.seen = []
        self.asked, self.given = Counter(), Counter()

    def parts(self, before):
        """Yield order, class, weight and counts of each context that was met, from the shortest on."""
        for order in range(self.config.lowest, min(self.config.order, len(before)) + 1):
            context = before[len(before) - order :]
            counts = Counter(target for old, target in self.seen if old[max(0, len(old) - order) :] == context)
            if total := sum(counts.values()):
                variety = 0 if len(counts) == 1 else 1 if 2 * len(counts) <= total else 2
                kind = (order, min(15, total.bit_length() - 1), variety)
                begun = total / (total + self.config.variety * len(counts))
                prior = self.config.prior
                weight = (prior * begun + self.given[kind]) / (prior + self.asked[kind])
                yield kind, weight, {token: count / total for token, count in counts.items()}

    def distribution(self, before, probabilities):
        for _, weight, shares in self.parts(before):
            probabilities = [(1 - weight) * p + weight * shares.get(w, 0.0) for w, p in enumerate(probabilities)]
        return probabilities

    def charge(self, before, target, probability):
        """Give the nats of a target, then learn from it."""
        parts = list(self.parts(before))
        values = [probability]
        for _, weight, shares in parts:
            values.append((1 - weight) * values[-1] + weight * shares.get(target, 0.0))
        reach = 1.0
        for (kind, weight, shares), value in zip(parts[::-1], values[:0:-1], strict=True):
            gave = weight * shares.get(target, 0.0) / value
            self.asked[kind] += reach
            self.given[kind] += reach * gave
            reach *= 1 - gave
        self.seen.append((before, target))
        return -math.log(values[-1])


def random_text(seed, length=60, vocab=VOCAB):
    """Draw a text that repeats itself, and a model's distribution of each of its tokens."""
    generator = np.random.default_rng(seed)
    phrase = generator.integers(0, vocab, 7)
    tokens = np.where(generator.random(length) < 0.8, np.resize(phrase, length), generator.integers(0, vocab, length))
    logits = generator.normal(0, 2, (length, vocab))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.concatenate([[0], tokens[:-1]]), tokens, log_probs


def nats_of(log_probs, targets):
    return -log_probs[np.arange(len(targets)), targets]


CONFIGS = [
    NgramConfig(),
    NgramConfig(order=3, lowest=0, variety=1.0, prior=2.0),
    NgramConfig(order=0, lowest=0),
    NgramConfig(order=4, lowest=2, variety=0.5, prior=0.1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
def test_nats_and_distributions_are_those_of_the_formula(config, seed):
    inputs, targets, log_probs = random_text(seed)
    ngram, reference = Ngram(config, VOCAB), Reference(config)
    ngram.begin()
    for place, target in enumerate(targets):
        here = slice(place, place + 1)
        whole = ngram.distribution(inputs[place], log_probs[place])
        before = inputs[: place + 1].tolist()
        expected = reference.distribution(before, np.exp(log_probs[place]))
        assert np.exp(whole) == pytest.approx(expected, rel=1e-12)
        nats = ngram.mix(inputs[here], targets[here], nats_of(log_probs[here], targets[here]))
        assert nats[0] == pytest.approx(-whole[target], rel=1e-12, abs=1e-12)
        assert nats[0] == pytest.approx(reference.charge(before, target, np.exp(log_probs[place, target])), rel=1e-9)


@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    order=st.integers(0, 5),
    lowest=st.integers(0, 5),
    scope=st.sampled_from(["document", "text"]),
)
@settings(deadline=None)
def test_it_is_a_distribution_and_pieces_do_not_matter(seed, cuts, order, lowest, scope):
    config = NgramConfig(order=max(order, lowest), lowest=lowest, scope=scope)
    inputs, targets, log_probs = random_text(seed)
    nats = nats_of(log_probs, targets)
    whole, pieces = Ngram(config, VOCAB), Ngram(config, VOCAB)
    for ngram in whole, pieces:
        ngram.begin()
        ngram.mix(targets, inputs, nats)  # another document before
        ngram.begin()
    bounds = [0, *sorted(cuts), len(targets)]
    mixed = []
    for start, stop in itertools.pairwise(bounds):
        if start < len(targets):
            total = np.exp(pieces.distribution(inputs[start], log_probs[start])).sum()
            assert total == pytest.approx(1, abs=1e-12)
        mixed.append(pieces.mix(inputs[start:stop], targets[start:stop], nats[start:stop]))
    assert np.array_equal(np.concatenate(mixed), whole.mix(inputs, targets, nats))


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_no_target_changes_what_was_charged_before_it(config):
    inputs, targets, log_probs = random_text(1)
    nats = nats_of(log_probs, targets)
    flipped = targets.copy()
    flipped[30:] = (flipped[30:] + 1) % VOCAB
    before, after = Ngram(config, VOCAB), Ngram(config, VOCAB)
    own, other = before.mix(inputs, targets, nats), after.mix(np.append(0, flipped[:-1]), flipped, nats)
    assert np.array_equal(own[:30], other[:30])
    assert not np.array_equal(own[30:], other[30:])


def test_documents_do_not_influence_one_another_unless_the_scope_is_the_text():
    inputs, targets, log_probs = random_text(2)
    nats = nats_of(log_probs, targets)

    def second(scope):
        ngram = Ngram(NgramConfig(scope=scope), VOCAB)
        ngram.begin()
        first = ngram.mix(inputs, targets, nats)
        ngram.begin()
        return first, ngram.mix(inputs, targets, nats)

    first, again = second("document")
    assert np.array_equal(first, again)
    first, again = second("text")
    assert again.sum() < first.sum() - 10


def test_what_was_never_met_costs_what_the_model_says_to_the_bit():
    tokens = np.arange(50)
    nats = np.random.default_rng(0).exponential(3.0, 50)
    ngram = Ngram(NgramConfig(), 64)
    ngram.begin()
    assert np.array_equal(ngram.mix(tokens, tokens + 1, nats), nats)


def test_repetition_costs_less_and_surprise_a_little_more():
    phrase = np.arange(10)
    inputs = np.tile(phrase, 20)
    targets = np.roll(inputs, -1)
    nats = np.full(200, math.log(10))
    ngram = Ngram(NgramConfig(), 10)
    ngram.begin()
    mixed = ngram.mix(inputs, targets, nats)
    assert mixed[-10:].mean() < 0.02
    noise = np.random.default_rng(0).integers(0, 10, 20_000)
    ngram.begin()
    flat = np.full(len(noise) - 1, math.log(10))
    assert 0 < ngram.mix(noise[:-1], noise[1:], flat).mean() - math.log(10) < 0.02


def test_what_does_not_fit_any_more_is_looked_up_but_not_added():
    inputs, targets, log_probs = random_text(3)
    nats = nats_of(log_probs, targets)
    for most in (1, 2, 7, 40):
        ngram = Ngram(NgramConfig(most=most), VOCAB)
        ngram.begin()
        ngram.mix(inputs, targets, nats)
        assert ngram.mix(inputs, targets, nats).sum() < math.inf
        total = np.exp(ngram.distribution(inputs[0], log_probs[0])).sum()
        assert total == pytest.approx(1, abs=1e-12)


def test_tokens_of_any_size_are_told_apart():
    """Two contexts that a hash of few bits, or a key of 32, would take for one."""
    large = 2**31
    ngram = Ngram(NgramConfig(order=1), large)
    ngram.begin()
    nats = np.full(1, 5.0)
    for token in (3, 3 + 2**16, 3 + 2**24):
        assert np.array_equal(ngram.mix(np.array([token]), np.array([9]), nats), nats)
    assert ngram.mix(np.array([3]), np.array([9]), nats)[0] < 5


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"order": 3, "lowest": 4}, "lowest 4, order 3"),
        ({"order": 33}, "order 33"),
        ({"prior": 0.0}, "prior 0.0 must be above 0"),
        ({"variety": math.inf}, "variety inf"),
        ({"most": 0}, "most 0"),
    ],
)
def test_bad_settings_get_one_line(wrong, line):
    with pytest.raises(ValueError, match=line):
        NgramConfig(**wrong)
