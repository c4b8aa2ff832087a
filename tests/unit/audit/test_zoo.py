"""The audit separates the zoo: every bad member fails a probe, in process and through a pipe, and no good one does."""

import sys
from contextlib import nullcontext

import numpy as np
import pytest

from nutshell.audit.batch_command import batch_command
from nutshell.audit.changes import probe_flips, probe_suffixes
from nutshell.audit.coverage import probe_coverage
from nutshell.audit.noise import CHANCE, LEAST, probe_noise
from nutshell.audit.normalised import probe_normalised
from nutshell.audit.subjects import Batch, Online, piped
from nutshell.audit.verdict import Verdict, overall
from nutshell.audit.zoo import ZOO

VOCAB, BOS = 257, 256
GOOD = [name for name, member in ZOO.items() if member.good]
BAD = [name for name, member in ZOO.items() if not member.good]
# Which probe is made for which of them; others may find them too.
MADE_FOR = {
    "unnormalised_mixture": "P2",
    "leaky_gate": "P3",
    "stale_cache": "P3",
    "optimise_on_window": "P4",
    "train_then_score": "P1",
    "two_passes": "P1",
    "bidirectional": "P2",
    "gate_reads_target": "P2",
    "hashed_4k": "P1",
    "hashed_64k": "P1",
    "hashed_1m": "P1",
    "tail_twice": "P5",
    "subset_as_whole": "P5",
    "spaces_as_three_bytes": "P5",
    "leading_space_twice": "P5",
    "fallback_as_replacement": "P5",
    "fallback_as_six": "P5",
    "text_without_accents": "P5",
    "mean_of_ratios": "P5",
    "bos_as_a_byte": "P5",
}


def text_of(seed, documents=5):
    generator = np.random.default_rng(seed)
    words = [b"the ", b"cat ", b"sat ", b"on ", b"a mat. ", "été ".encode(), b"dog "]
    drawn = [b"".join(words[i] for i in generator.integers(0, len(words), 40)) for _ in range(documents)]
    stream = np.concatenate([[BOS, *document] for document in drawn] + [[BOS]]).astype(np.int64)
    return stream, sum(map(len, drawn))


def in_process(name):
    made = ZOO[name].made
    sizes = {"vocab_size": VOCAB, "bos_id": BOS}
    if isinstance(made, type):
        return Online(lambda _: nullcontext(made(VOCAB, BOS)), independent=made.independent, **sizes)
    return Batch(lambda tokens: made(tokens, VOCAB, BOS), **sizes)


def through_a_pipe(name):
    command = f"{sys.executable} -m nutshell.audit.zoo {name} {VOCAB} {BOS}"
    if ZOO[name].online:
        return piped(command, timeout=60)
    return batch_command(command, vocab_size=VOCAB, bos_id=BOS, timeout=60)


def audit(subject, *, tokens, seed=0, most_calls=2_000):
    text, golden_bytes = text_of(seed)
    return [
        probe_noise(subject, tokens=tokens, seed=seed),
        probe_normalised(subject, text, most_calls=most_calls),
        probe_flips(subject, text, seed=seed),
        probe_suffixes(subject, text, seed=seed),
        probe_coverage(subject, text, golden_bytes),
    ]


def failed(verdicts):
    return {verdict.probe[:2] for verdict in verdicts if verdict.answer == "failed"}


def test_every_bad_one_has_a_probe_that_is_made_for_it():
    assert set(MADE_FOR) == set(BAD)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_found_in_process(name):
    verdicts = audit(in_process(name), tokens=ZOO[name].load)
    assert MADE_FOR[name] in failed(verdicts), verdicts
    assert overall(verdicts) == "failed"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_one_is_found_through_a_pipe(name):
    """Enumerating the vocabulary would start a process for each token, so that those are left to other probes."""
    probes = {
        "P1": lambda subject: probe_noise(subject, tokens=ZOO[name].load, seed=0),
        "P2": lambda subject: probe_normalised(subject, text_of(0)[0], most_calls=0),
        "P3": lambda subject: probe_flips(subject, text_of(0)[0], seed=0),
        "P4": lambda subject: probe_suffixes(subject, text_of(0)[0], seed=0),
        "P5": lambda subject: probe_coverage(subject, *text_of(0)),
    }
    made_for = MADE_FOR[name] if ZOO[name].online or MADE_FOR[name] != "P2" else "P1"
    assert probes[made_for](through_a_pipe(name)).answer == "failed"


@pytest.mark.parametrize("name", GOOD)
def test_a_good_one_passes_with_fifty_seeds(name):
    for seed in range(50):
        verdicts = audit(in_process(name), tokens=LEAST if seed == 0 else 1_500, seed=seed, most_calls=257 * (seed < 3))
        assert not failed(verdicts), (seed, verdicts)
        assert seed or overall(verdicts) == "passed", verdicts


@pytest.mark.parametrize("name", ["dirichlet_cache", "score_first"])
def test_a_good_one_passes_through_a_pipe(name):
    verdicts = audit(through_a_pipe(name), tokens=LEAST, most_calls=0)
    assert not failed(verdicts), verdicts


def test_chance_alone_fails_as_often_as_it_says():
    """Of honest predictors of a coin that guess wildly, the share above 1/a is at most a: here for a = 1 in 100."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 2, (2_000, 200))
    guesses = generator.uniform(0.05, 0.95, (2_000, 200))
    nats = -np.log(np.where(tokens == 1, guesses, 1 - guesses))
    most = np.cumsum(np.log(2) - nats, axis=1).max(axis=1)
    assert 0 < np.mean(most > np.log(100)) <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 2_000)
    assert CHANCE == 1e-9


def test_too_little_data_cannot_tell():
    text, _ = text_of(0)
    assert probe_noise(in_process("uniform"), tokens=LEAST - 1, seed=0).answer == "cannot tell"
    assert probe_normalised(in_process("score_first"), text, most_calls=VOCAB - 1).answer == "not run"
    for probe in (probe_flips, probe_suffixes):
        assert probe(in_process("score_first"), text[:200], seed=0).answer == "cannot tell"


def test_what_differs_from_run_to_run_cannot_be_told():
    generator = np.random.default_rng(0)
    restless = Batch(lambda tokens: generator.uniform(1, 9, len(tokens) - 1), vocab_size=VOCAB, bos_id=BOS)
    verdict = probe_suffixes(restless, text_of(0)[0], seed=0)
    assert verdict.answer == "cannot tell"
    assert "the same stream twice" in verdict.evidence


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_values_that_are_no_costs_fail(value):
    def score(tokens):
        return np.r_[np.full(len(tokens) - 2, 9.0), value]

    verdicts = audit(Batch(score, vocab_size=VOCAB, bos_id=BOS), tokens=LEAST, most_calls=VOCAB)
    assert "P5" in failed(verdicts)


def test_the_sum_of_verdicts():
    def verdict(answer):
        return Verdict(probe="", answer=answer, evidence="", saw="", needs="", blind="")

    for answers, expected in [
        (["passed", "failed", "cannot tell"], "failed"),
        (["passed", "cannot tell", "not run"], "cannot tell"),
        (["passed", "not run"], "passed"),
        (["not run"], "cannot tell"),
    ]:
        assert overall([verdict(answer) for answer in answers]) == expected
