import math

import msgspec
import numpy as np
import pytest

from nutshell.errors import LegalityError
from nutshell.score.ledger import Score, ScoreLedger, Strategy
from nutshell.score.mixtures import Ngram, NgramConfig
from score_twins import documents_of

DISJOINT = Strategy(kind="disjoint", unit="document", context=8, stride=8, rules=("charge_end",))

LN2 = math.log(2)


def filled(documents, nats=LN2):
    ledger = ScoreLedger(documents.tracks())
    for track, each in enumerate(documents.tracks()):
        ledger.commit(track, 0, np.full(len(each.targets), nats))
    return ledger


def test_one_bit_a_target():
    documents = documents_of(b"abc", b"defgh")
    score = filled(documents).finish(documents, DISJOINT)
    assert (score.tokens, score.bytes, score.documents) == (10, 8, 2)
    assert score.bpb == pytest.approx(10 / 8, rel=1e-15)
    assert score.nats_per_token == pytest.approx(math.log(2), rel=1e-15)
    assert score.nats_per_byte == pytest.approx(math.log(2) * 10 / 8, rel=1e-15)
    assert score.document_nats == pytest.approx((4 * math.log(2), 6 * math.log(2)), rel=1e-15)
    assert (score.metric, score.coverage) == ("bpb", 1.0)


def test_total_bits_over_total_bytes_and_no_mean_of_ratios():
    documents = documents_of(b"a", b"b" * 9)
    ledger = ScoreLedger(documents.tracks())
    ledger.commit(0, 0, np.full(2, 8 * math.log(2)))
    ledger.commit(1, 0, np.full(10, math.log(2)))
    assert ledger.finish(documents, DISJOINT).bpb == pytest.approx((16 + 10) / 10, rel=1e-15)


def test_the_total_does_not_depend_on_the_order_of_commits():
    documents = documents_of(b"x" * 999)
    nats = np.random.default_rng(0).exponential(size=1000)
    totals = set()
    for step in (1, 7, 1000):
        ledger = ScoreLedger(documents.tracks())
        for start in reversed(range(0, 1000, step)):
            ledger.commit(0, start, nats[start : start + step])
        totals.add(ledger.finish(documents, DISJOINT).total_nats)
    assert len(totals) == 1
    assert totals.pop() == pytest.approx(math.fsum(nats), rel=1e-15)


@pytest.mark.parametrize("scope", ["document", "text"])
@pytest.mark.parametrize("scored", [1, 2])
def test_a_mixture_is_charged_in_the_order_of_the_text_up_to_where_it_is_scored(scope, scored):
    documents = documents_of(b"abcabcabcabc", b"abcabc", b"xyz")
    tracks = documents.tracks()
    config = NgramConfig(order=2, scope=scope)
    ledger, ngram, expected = ScoreLedger(tracks, config), Ngram(config, documents.tokenizer.vocab_size), []
    for track in range(scored):
        inputs, targets, _ = tracks[track]
        nats = np.linspace(1, 3, len(targets))
        ngram.begin()
        expected.append(ngram.mix(inputs, targets, nats).sum())
    for track in reversed(range(scored)):
        ledger.commit(track, 0, np.linspace(1, 3, len(tracks[track].targets)))
    score = ledger.finish(documents, DISJOINT, whole=False)
    assert score.document_nats == pytest.approx(expected, rel=1e-15)
    assert score.total_nats < sum(len(tracks[track].targets) * 2 for track in range(scored)) - 5


def test_scoring_twice_is_refused():
    ledger = ScoreLedger(documents_of(b"a", b"abcdef").tracks())
    ledger.commit(1, 3, np.ones(4))
    with pytest.raises(LegalityError, match="sequence 1, target 3: scored twice"):
        ledger.commit(1, 2, np.ones(3))


def test_a_hole_is_refused():
    documents = documents_of(b"abcdef")
    ledger = ScoreLedger(documents.tracks())
    ledger.commit(0, 0, np.ones(3))
    ledger.commit(0, 4, np.ones(3))
    with pytest.raises(LegalityError, match="sequence 0, target 3: never scored"):
        ledger.finish(documents, DISJOINT)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_what_is_no_code_length_is_refused(value):
    ledger = ScoreLedger(documents_of(b"abcdef").tracks())
    with pytest.raises(LegalityError, match=r"sequence 0, target 4: .* is not -log of a probability"):
        ledger.commit(0, 3, np.array([1.0, value, 1.0]))


def test_bytes_of_other_documents_are_refused():
    ledger = filled(documents_of(b"abc"))
    with pytest.raises(LegalityError, match="charged 3 bytes for documents of 4 bytes"):
        ledger.finish(documents_of(b"abcd"), DISJOINT)


def test_no_bytes_have_no_score():
    documents = documents_of(b"", b"abc").take([0])
    with pytest.raises(LegalityError, match="1 documents without a byte"):
        filled(documents).finish(documents, DISJOINT)


def test_part_of_a_text_has_another_name():
    documents = documents_of(b"abc", b"d").take([0])
    score = filled(documents).finish(documents, DISJOINT)
    assert (score.metric, score.coverage, score.documents) == ("subset_bpb", 0.75, 1)


def test_claims_are_for_documents_by_their_place_in_the_text():
    documents = documents_of(b"abc", b"d", b"efghi").take([2, 1])
    score = filled(documents).finish(documents, DISJOINT)
    assert score.claimed_nats((1,)) == pytest.approx(2 * math.log(2), rel=1e-15)
    assert score.claimed_nats((2, 1)) == pytest.approx(score.total_nats, rel=1e-15)
    with pytest.raises(LegalityError, match="no claim about document 0"):
        score.claimed_nats((0,))


def test_survives_json():
    documents = documents_of(b"abc")
    score = filled(documents, 0.1).finish(documents, DISJOINT)
    assert msgspec.json.decode(msgspec.json.encode(score), type=Score) == score
