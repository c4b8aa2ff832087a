"""The loop that encoder and decoder share: what a model is fed, when, and in which shape."""

import msgspec
import numpy as np
import pytest

from nutshell.errors import ProofError
from nutshell.score.stepper import Layout, decode, encode, walk
from nutshell.score.windows import WindowPlan
from score_twins import BOS, Order2, Uniform, documents_of

PLAN = WindowPlan(context=6, stride=2)
DOCUMENTS = documents_of(b"abcdefghij", b"abcd", b"", b"xy")


def test_a_token_is_fed_only_after_its_distribution_was_given():
    """Whatever the model has been fed when it is asked for position t is the window's inputs up to t."""
    layout = Layout.of(DOCUMENTS, PLAN, rows=3)
    tracks = DOCUMENTS.tracks()
    windows = {t: w for w in PLAN.windows(20) for t in range(w.score_from, w.stop)}
    model = Order2(context=6)
    asked = []

    def exchange(table, places, position):
        assert model.rows == [tracks[place].inputs[windows[position].start : position + 1].tolist() for place in places]
        asked.extend((int(place), position) for place in places)
        return np.array([tracks[place].targets[position] for place in places])

    walk(model, layout, exchange, None)
    lengths = [len(track.targets) for track in tracks]
    first_batch = [(place, t) for t in range(max(lengths[:3])) for place in range(3) if t < lengths[place]]
    assert asked == first_batch + [(3, t) for t in range(lengths[3])]


def test_one_token_a_step_and_one_prefill_a_window():
    model = Uniform(context=6)
    encode(model, documents_of(b"abcdefghij", b"abc"), Layout.of(documents_of(b"abcdefghij", b"abc"), PLAN, rows=2))
    # 11 targets: windows score 0..5, 6..7, 8..9 and 10; the second document ends at position 3.
    assert model.fed == [(2, 1)] * 4 + [(1, 1)] * 2 + [(1, 5), (1, 1)] * 2 + [(1, 5)]


@pytest.mark.parametrize("rows", [1, 2, 4, 9])
def test_decoding_gives_the_documents_back(rows):
    layout = Layout.of(DOCUMENTS, PLAN, rows=rows)
    bitstream = encode(Order2(context=6), DOCUMENTS, layout)
    decoded = decode(Order2(context=6), bitstream, layout)
    assert decoded.fault == ""
    assert [tokens.tolist() for tokens in decoded.tokens] == [tokens.tolist() for tokens in DOCUMENTS.tokens]


def test_progress_counts_tokens_to_the_end():
    seen = []
    encode(Uniform(context=6), DOCUMENTS, Layout.of(DOCUMENTS, PLAN, rows=4), lambda *done: seen.append(done))
    assert seen[0] == (4, DOCUMENTS.num_targets)
    assert seen[-1] == (DOCUMENTS.num_targets, DOCUMENTS.num_targets)


def test_a_decoder_with_another_layout_goes_astray():
    documents = documents_of(b"abcabc" * 9, b"xyxyxyxy" * 5)
    layout = Layout.of(documents, PLAN, rows=4)
    bitstream = encode(Order2(context=6), documents, layout)
    for other in ({"rows": 1}, {"plan": WindowPlan(context=6, stride=3)}):
        assert decode(Order2(context=6), bitstream, msgspec.structs.replace(layout, **other)).fault


def test_the_first_document_that_ends_as_another_text_stops_the_decoder():
    layout = Layout.of(DOCUMENTS, PLAN, rows=4)
    bitstream = encode(Order2(context=6), DOCUMENTS, layout)
    crcs = (*layout.document_crcs[:3], 12345)
    decoded = decode(Order2(context=6), bitstream, msgspec.structs.replace(layout, document_crcs=crcs))
    assert decoded.fault == "document 3 ended at token 2 as another text"
    assert [len(tokens) for tokens in decoded.tokens] == [3, 3, 0, 2]


def test_decoding_noise_ends():
    """Tokens beyond those that were coded, with no document at its end: the decoder gives up."""

    class NeverEnds(Uniform):
        def row(self, seen):
            log_probs = np.full(self.vocab_size, -np.log(self.vocab_size - 1 + 1e-9))
            log_probs[BOS] = np.log(1e-9 / (self.vocab_size - 1 + 1e-9))
            return log_probs

    layout = Layout.of(DOCUMENTS, PLAN, rows=4)
    decoded = decode(NeverEnds(context=6), bytes(1000), layout)
    assert decoded.fault == "document 0 or one beside it does not end"
    assert sum(map(len, decoded.tokens)) <= DOCUMENTS.num_targets + 4


def test_what_is_no_distribution_is_named_by_document_and_token():
    class Unnormalised(Uniform):
        def row(self, seen):
            return super().row(seen) + (0.1 if seen[-2:] == [ord("a"), ord("b")] else 0.0)

    documents = documents_of(b"xyz", b"uvw", b"zzab", b"abcd").take([1, 2, 3])
    with pytest.raises(
        ProofError, match=r"document 3, token 2: not a finite, normalised distribution \(logsumexp 0.1 "
    ):
        encode(Unnormalised(context=6), documents, Layout.of(documents, PLAN, rows=3))


def test_checksums_belong_to_documents():
    layout = Layout.of(DOCUMENTS, PLAN, rows=2)
    with pytest.raises(ProofError, match="1 checksums for 2 documents"):
        Layout(rows=1, plan=PLAN, bos_id=0, document_ids=(1, 2), document_crcs=(5,), tokens=9)
    assert layout.batches() == [range(2), range(2, 4)]
