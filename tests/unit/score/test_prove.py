"""Proofs of honest models hold; every way of cheating that a decoder can notice ends in `ok = False` or an error."""

import hashlib

import msgspec
import numpy as np
import pytest

from nutshell.errors import LegalityError, ProofError
from nutshell.score.frozen import score_documents, score_stream
from nutshell.score.layout import Shape
from nutshell.score.prove import Proof, Receipt, prove, verify
from nutshell.score.windows import WindowPlan
from score_twins import VOCAB_SIZE, ByteTokenizer, Order2, Uniform, Unigram, coder_of, documents_of

TEXTS = (b"hello hello hello world " * 12, b"", b"abc", b"the cat sat on the mat, the cat sat" * 8, b"hello world" * 5)
DOCUMENTS = documents_of(*TEXTS)
SLIDING = WindowPlan(context=16, stride=5)
DISJOINT = WindowPlan(context=16, stride=16)
HERE = {"machine": "test", "threads": "1"}


def proof_of(model, plan=SLIDING, documents=DOCUMENTS, rows=3):
    score = score_documents(model, DOCUMENTS, plan)
    return prove(coder_of(model), documents, score, environment=HERE, shape=Shape(rows=rows))


@pytest.mark.parametrize("model", [Uniform, Unigram, Order2])
@pytest.mark.parametrize("plan", [SLIDING, DISJOINT])
@pytest.mark.parametrize("rows", [1, 3, 32])
def test_honest_models_are_proved(model, plan, rows):
    bitstream, receipt = proof_of(model(), plan, rows=rows)
    assert receipt.ok, receipt.reason
    assert (receipt.documents, receipt.tokens, receipt.bytes) == (5, DOCUMENTS.num_targets, DOCUMENTS.num_bytes)
    score = score_documents(model(), DOCUMENTS, plan)
    assert receipt.claimed_bits == pytest.approx(score.total_nats / np.log(2), rel=1e-12)
    assert receipt.coded_bits == 8 * len(bitstream)
    assert abs(receipt.coded_bits - receipt.claimed_bits) <= 64 + 1e-4 * receipt.claimed_bits
    assert receipt.overhead == pytest.approx(receipt.coded_bits / receipt.claimed_bits - 1)
    assert receipt.text_sha256 == receipt.decoded_sha256 == hashlib.sha256(b"".join(TEXTS)).hexdigest()
    assert receipt.environment == HERE


def test_a_sample_is_held_to_the_claims_for_its_own_documents():
    score = score_documents(Order2(), DOCUMENTS, SLIDING)
    sample = DOCUMENTS.sample(num_documents=2, max_tokens=400, seed=1)
    receipt = prove(coder_of(Order2()), sample, score, environment={}).receipt
    assert receipt.ok, receipt.reason
    assert sorted(receipt.layout.document_ids) == list(sample.ids)
    assert receipt.claimed_bits == pytest.approx(score.claimed_nats(sample.ids) / np.log(2), rel=1e-12)


def test_a_fresh_decoder_gives_the_documents_back_from_json_and_bits():
    bitstream, receipt = proof_of(Order2())
    stored = msgspec.json.decode(msgspec.json.encode(receipt), type=Receipt)
    assert stored == receipt
    decoded = verify(coder_of(Order2()), ByteTokenizer(), Proof(bitstream, stored), environment=HERE)
    assert {document: bytes(tokens.tolist()) for document, tokens in decoded.items()} == dict(enumerate(TEXTS))


def test_every_altered_byte_is_noticed():
    bitstream, receipt = proof_of(Order2())
    for place in range(len(bitstream)):
        altered = bytearray(bitstream)
        altered[place] ^= 0x10
        with pytest.raises(ProofError, match="one of them was altered"):
            verify(coder_of(Order2()), ByteTokenizer(), Proof(bytes(altered), receipt), environment=HERE)


def test_altered_bits_do_not_decode_even_under_their_own_hash():
    bitstream, receipt = proof_of(Unigram())
    for place in range(0, len(bitstream) - 8, 40):
        altered = bytearray(bitstream)
        altered[place] ^= 0x10
        forged = msgspec.structs.replace(receipt, bitstream_sha256=hashlib.sha256(altered).hexdigest())
        with pytest.raises(ProofError, match=r"document \d|does not decode"):
            verify(coder_of(Unigram()), ByteTokenizer(), Proof(bytes(altered), forged), environment=HERE)


@pytest.mark.parametrize("cut", [1, 4, 100])
def test_a_truncated_bitstream_is_noticed(cut):
    bitstream, receipt = proof_of(Unigram())
    forged = msgspec.structs.replace(receipt, bitstream_sha256=hashlib.sha256(bitstream[:-cut]).hexdigest())
    with pytest.raises(ProofError):
        verify(coder_of(Unigram()), ByteTokenizer(), Proof(bitstream[:-cut], forged), environment=HERE)


def test_another_model_cannot_decode():
    proof = proof_of(Order2())

    class Other(Order2):
        def row(self, seen):
            return np.roll(super().row(seen), 1)

    with pytest.raises(ProofError, match=r"document \d ended at token \d+ as another text$"):
        verify(coder_of(Other()), ByteTokenizer(), proof, environment=HERE)
    elsewhere = {"threads": "2", "machine": "test", "torch": "3"}
    with pytest.raises(ProofError, match=r"; it was made with threads 1 \(here 2\), torch unknown \(here 3\)$"):
        verify(coder_of(Other()), ByteTokenizer(), proof, environment=elsewhere)


def test_another_environment_that_decodes_is_no_fault():
    verify(coder_of(Order2()), ByteTokenizer(), proof_of(Order2()), environment={"machine": "another"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_sha256": "0" * 64}, "the decoded text is not the one"),
        ({"bytes": 1}, "the decoded text is not the one"),
        ({"claimed_bits": 1.0}, "the score claims 1"),
        ({"ok": False, "reason": "it rained"}, "a proof that failed: it rained"),
        ({"documents": 6}, "contradicts itself"),
        ({"tokens": 10}, "contradicts itself"),
        ({"coded_bits": 32}, "contradicts itself"),
        ({"tokens": 10**12, "layout": {"tokens": 10**12}}, "which no text has"),
        ({"layout": {"bos_id": 7}}, "of another model"),
        ({"piece_bytes": (4,)}, "its pieces are not those"),
        ({"layout": {"document_ids": (), "document_crcs": (), "pieces": ()}}, "names no document"),
    ],
)
def test_a_receipt_that_was_changed_is_noticed(change, message):
    bitstream, receipt = proof_of(Uniform())
    if "layout" in change:
        change = change | {"layout": msgspec.structs.replace(receipt.layout, **change["layout"])}
    with pytest.raises(ProofError, match=message):
        verify(
            coder_of(Uniform()),
            ByteTokenizer(),
            Proof(bitstream, msgspec.structs.replace(receipt, **change)),
            environment=HERE,
        )


@pytest.mark.parametrize("more", [-1, 1])
def test_a_receipt_that_counts_other_tokens_than_were_decoded_is_noticed(more):
    bitstream, receipt = proof_of(Uniform())
    layout = msgspec.structs.replace(receipt.layout, tokens=receipt.tokens + more)
    forged = msgspec.structs.replace(receipt, layout=layout, tokens=receipt.tokens + more)
    with pytest.raises(ProofError, match="does not end" if more < 0 else "the decoded text is not the one"):
        verify(coder_of(Uniform()), ByteTokenizer(), Proof(bitstream, forged), environment=HERE)


def test_checking_tells_of_its_progress():
    seen = []
    verify(
        coder_of(Uniform()),
        ByteTokenizer(),
        proof_of(Uniform()),
        environment=HERE,
        progress=lambda *done: seen.append(done),
    )
    assert seen[-1] == (DOCUMENTS.num_targets, DOCUMENTS.num_targets)


class ReadsTheTarget(Uniform):
    """Optimises on the window it scores: what it reports is not what it predicts."""

    def nats(self, inputs, targets):
        return super().nats(inputs, targets) * np.where(targets == ord("l"), 0.5, 1.0)


class SeesBothWays(Uniform):
    """Copies its own next input in parallel, which it cannot do one token at a time."""

    def nats(self, inputs, targets):
        ahead = np.full_like(inputs, -1)
        ahead[:, :-1] = inputs[:, 1:]
        return np.where(ahead[:, -targets.shape[1] :] == targets, 0.1, np.log(VOCAB_SIZE))


class Modest(Uniform):
    """Claims more than it codes: a scorer that charges something twice."""

    def nats(self, inputs, targets):
        return super().nats(inputs, targets) * 1.1


@pytest.mark.parametrize("model", [ReadsTheTarget, SeesBothWays, Modest])
def test_a_claim_that_no_decoder_can_meet_fails_by_length(model):
    receipt = proof_of(model()).receipt
    assert not receipt.ok
    assert receipt.reason.startswith(f"the bitstream has {receipt.coded_bits:,} bits, the score claims")
    assert receipt.text_sha256 == receipt.decoded_sha256


def test_memory_that_survives_a_document_makes_decoding_diverge():
    """A stale cache: what it saw while encoding is still there when it decodes."""

    class Remembers(Unigram):
        def __init__(self):
            super().__init__()
            self.counts = np.ones(VOCAB_SIZE)

        def feed(self, tokens):
            np.add.at(self.counts, tokens, 5.0)
            return super().feed(tokens)

        def row(self, seen):
            return np.log(self.counts / self.counts.sum())

    score = score_documents(Uniform(), DOCUMENTS, DISJOINT)
    receipt = prove(coder_of(Remembers()), DOCUMENTS, score, environment={}, shape=Shape(rows=3)).receipt
    assert not receipt.ok
    assert receipt.reason.startswith("decoding left the text at document 0, token 0")
    assert receipt.text_sha256 != receipt.decoded_sha256


@pytest.mark.parametrize(
    "second_life", [lambda log_probs: np.roll(log_probs, 3, axis=1), lambda log_probs: log_probs * 2]
)
def test_where_a_decode_diverged(second_life):
    """A model that computes otherwise, or nonsense, from token 40 on when it runs for the second time."""
    tilt = np.linspace(-2, 2, VOCAB_SIZE)
    tilt -= np.log(np.exp(tilt).sum())

    class Drifts(Uniform):
        lives = 0

        def begin(self, batch):
            self.lives += 1
            super().begin(batch)

        def row(self, seen):
            return tilt

        def feed(self, tokens):
            log_probs = super().feed(tokens)
            return second_life(log_probs) if self.lives == 2 and len(self.rows[0]) > 40 else log_probs

    documents = documents_of(TEXTS[3])
    score = score_documents(Drifts(context=400), documents, WindowPlan(context=400, stride=400))
    receipt = prove(coder_of(Drifts(context=400)), documents, score, environment={}).receipt
    assert not receipt.ok
    assert receipt.reason == "decoding left the text at document 0, token 40"


@pytest.mark.parametrize(("shift", "fault"), [(0.01, "logsumexp 0.01 nats"), (np.nan, "logsumexp nan nats")])
def test_a_model_that_is_no_distribution_gets_no_proof(shift, fault):
    class Unfit(Uniform):
        def feed(self, tokens):
            return super().feed(tokens) + np.float32(shift)

    score = score_documents(Uniform(), DOCUMENTS, DISJOINT)
    with pytest.raises(ProofError, match=f"document 0, token 0: not a finite, normalised distribution .{fault}"):
        prove(coder_of(Unfit()), DOCUMENTS, score, environment={})


def test_a_claim_of_no_bits_is_refused():
    class Knows(Uniform):
        def nats(self, inputs, targets):
            return np.zeros(targets.shape)

    with pytest.raises(LegalityError, match="the score claims 0 bits for 5 documents: no code is that short"):
        proof_of(Knows())


def test_progress_runs_once_over_both_ways():
    seen = []
    score = score_documents(Uniform(), DOCUMENTS, DISJOINT)
    prove(coder_of(Uniform()), DOCUMENTS, score, environment={}, progress=lambda *done: seen.append(done))
    assert {total for _, total in seen} == {2 * DOCUMENTS.num_targets}
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == 2 * DOCUMENTS.num_targets


def test_a_score_that_claims_nothing_for_a_document_cannot_be_proved():
    stream = score_stream(Uniform(), DOCUMENTS, DISJOINT)
    with pytest.raises(LegalityError, match="no claim about document"):
        prove(coder_of(Uniform()), DOCUMENTS, stream, environment={})
    some = score_documents(Uniform(), DOCUMENTS.take([0, 1]), DISJOINT)
    with pytest.raises(LegalityError, match="no claim about document 3"):
        prove(coder_of(Uniform()), DOCUMENTS.take([3]), some, environment={})


def test_what_goes_on_learning_is_proved_of_just_what_was_scored():
    score = score_documents(Uniform(), DOCUMENTS, DISJOINT)
    with pytest.raises(LegalityError, match=r"'disjoint' claims for a document depends on all before it: prove what"):
        prove(coder_of(Uniform()), DOCUMENTS.take([1, 3]), score, environment={}, shape=Shape(in_order=True))
    receipt = prove(coder_of(Uniform()), DOCUMENTS, score, environment={}, shape=Shape(in_order=True)).receipt
    assert receipt.ok
    assert receipt.layout.document_ids == (0, 1, 2, 3, 4)


def test_pieces_that_a_journal_holds_are_not_coded_again():
    """Interrupted in its third piece, a proof goes on there, and comes out the same."""
    coded, kept, seen = [], {}, []

    class Counting(Order2):
        def begin(self, batch):
            coded.append(batch)
            super().begin(batch)
            if len(coded) == 3:
                raise KeyboardInterrupt

    shape = Shape(rows=2, piece_tokens=1)
    plan = WindowPlan(context=400, stride=400)
    score = score_documents(Order2(context=400), DOCUMENTS, plan)

    def attempt(model):
        return prove(
            coder_of(model),
            DOCUMENTS,
            score,
            environment=HERE,
            shape=shape,
            journal=lambda layout: kept,
            progress=lambda done, total: seen.append(done),
        )

    with pytest.raises(KeyboardInterrupt):
        attempt(Counting(context=400))
    assert set(kept) == {"coded-0", "coded-1"}
    proof = attempt(Order2(context=400))
    assert proof.receipt.ok
    assert proof.bitstream == prove(coder_of(Order2(context=400)), DOCUMENTS, score, environment={}, shape=shape)[0]
    assert set(kept) == {f"{what}-{number}" for what in ("coded", "read") for number in range(3)}
    again = attempt(Uniform(context=400))  # nothing is left that another model could spoil
    assert again.bitstream == proof.bitstream
    assert again.receipt.ok
    assert seen[-1] == 2 * DOCUMENTS.num_targets
