"""The loop that encoder and decoder share: what a model is fed, when, and in which shape."""

import msgspec
import numpy as np
import pytest

from nutshell.errors import ProofError
from nutshell.score.layout import Layout, Shape
from nutshell.score.ledger import Strategy
from nutshell.score.online import WindowReader
from nutshell.score.walk import Decoded, decode, encode, walk
from nutshell.score.windows import WindowPlan
from score_twins import BOS, Order2, Uniform, documents_of

PLAN = WindowPlan(context=6, stride=2)
SLIDING = Strategy.of(PLAN, "document")
DOCUMENTS = documents_of(b"abcdefghij", b"abcd", b"", b"xy")


def layout_of(documents, rows):
    return Layout.of(documents, SLIDING, Shape(rows=rows, piece_tokens=10**6))


def reader(model, plan=PLAN):
    return WindowReader(model, plan, BOS)


def encode_all(model, documents, layout, advance=None):
    (piece,) = layout.batches()
    return encode(reader(model), layout, piece, dict(enumerate(documents.tokens)), advance)


def decode_all(model, bits, layout, plan=PLAN) -> Decoded:
    (piece,) = layout.batches()
    return decode(reader(model, plan), layout, piece, bits)


def test_a_token_is_fed_only_after_its_distribution_was_given():
    """Whatever the model has been fed when it is asked for position t is the window's inputs up to t."""
    layout = layout_of(DOCUMENTS, rows=3)
    tracks = DOCUMENTS.tracks()
    windows = {t: w for w in PLAN.windows(20) for t in range(w.score_from, w.stop)}
    model = Order2(context=6)
    asked = []

    def exchange(table, places, position):
        assert model.rows == [tracks[place].inputs[windows[position].start : position + 1].tolist() for place in places]
        asked.extend((int(place), position) for place in places)
        return np.array([tracks[place].targets[position] for place in places])

    walk(reader(model), layout, layout.batches()[0], exchange, None)
    lengths = [len(track.targets) for track in tracks]
    first_batch = [(place, t) for t in range(max(lengths[:3])) for place in range(3) if t < lengths[place]]
    assert asked == first_batch + [(3, t) for t in range(lengths[3])]


def test_one_token_a_step_and_one_prefill_a_window():
    model = Uniform(context=6)
    documents = documents_of(b"abcdefghij", b"abc")
    encode_all(model, documents, layout_of(documents, rows=2))
    # 11 targets: windows score 0..5, 6..7, 8..9 and 10; the second document ends at position 3.
    assert model.fed == [(2, 1)] * 4 + [(1, 1)] * 2 + [(1, 5), (1, 1)] * 2 + [(1, 5)]


@pytest.mark.parametrize("rows", [1, 2, 4, 9])
def test_decoding_gives_the_documents_back(rows):
    layout = layout_of(DOCUMENTS, rows=rows)
    bits = encode_all(Order2(context=6), DOCUMENTS, layout)
    decoded = decode_all(Order2(context=6), bits, layout)
    assert decoded.fault == ""
    assert [decoded.tokens[place].tolist() for place in range(4)] == [tokens.tolist() for tokens in DOCUMENTS.tokens]


def test_progress_counts_tokens_to_the_end():
    seen = []
    encode_all(Uniform(context=6), DOCUMENTS, layout_of(DOCUMENTS, rows=4), seen.append)
    assert seen[0] == 4
    assert sum(seen) == DOCUMENTS.num_targets


def test_a_decoder_with_another_layout_goes_astray():
    documents = documents_of(b"abcabc" * 9, b"xyxyxyxy" * 5)
    layout = layout_of(documents, rows=4)
    bits = encode_all(Order2(context=6), documents, layout)
    assert decode_all(Order2(context=6), bits, msgspec.structs.replace(layout, rows=1)).fault
    assert decode_all(Order2(context=6), bits, layout, WindowPlan(context=6, stride=3)).fault


def test_the_first_document_that_ends_as_another_text_stops_the_decoder():
    layout = layout_of(DOCUMENTS, rows=4)
    bits = encode_all(Order2(context=6), DOCUMENTS, layout)
    crcs = (*layout.document_crcs[:3], 12345)
    decoded = decode_all(Order2(context=6), bits, msgspec.structs.replace(layout, document_crcs=crcs))
    assert decoded.fault == "document 3 ended at token 2 as another text"
    assert {place: len(tokens) for place, tokens in decoded.tokens.items()} == {0: 3, 1: 3, 2: 0, 3: 2}


def test_decoding_noise_ends():
    """Tokens beyond those that were coded, with no document at its end: the decoder gives up."""

    class NeverEnds(Uniform):
        def row(self, seen):
            log_probs = np.full(self.vocab_size, -np.log(self.vocab_size - 1 + 1e-9))
            log_probs[BOS] = np.log(1e-9 / (self.vocab_size - 1 + 1e-9))
            return log_probs

    decoded = decode_all(NeverEnds(context=6), bytes(1000), layout_of(DOCUMENTS, rows=4))
    assert decoded.fault == "document 0 or one beside it does not end"
    assert sum(map(len, decoded.tokens.values())) <= DOCUMENTS.num_targets + 4


def test_what_is_no_distribution_is_named_by_document_and_token():
    class Unnormalised(Uniform):
        def row(self, seen):
            return super().row(seen) + (0.1 if seen[-2:] == [ord("a"), ord("b")] else 0.0)

    documents = documents_of(b"xyz", b"uvw", b"zzab", b"abcd").take([1, 2, 3])
    with pytest.raises(
        ProofError, match=r"document 3, token 2: not a finite, normalised distribution \(logsumexp 0.1 "
    ):
        encode_all(Unnormalised(context=6), documents, layout_of(documents, rows=3))


def test_a_layout_that_contradicts_itself_is_refused():
    layout = layout_of(DOCUMENTS, rows=2)
    for change, message in [
        ({"document_crcs": (5,)}, "1 checksums for 4 documents"),
        ({"pieces": (2, 1)}, "pieces of 3 documents, of 4 that are named"),
    ]:
        with pytest.raises(ProofError, match=message):
            msgspec.structs.replace(layout, **change)


def test_pieces_are_whole_batches_of_at_least_so_many_targets():
    """Targets of the documents: 11, 5, 1, 3, in batches of two: 16 and 4."""
    for piece_tokens, batches in [
        (10**6, [[range(2), range(2, 4)]]),
        (17, [[range(2), range(2, 4)]]),
        (16, [[range(2)], [range(2, 4)]]),
    ]:
        assert Layout.of(DOCUMENTS, SLIDING, Shape(rows=2, piece_tokens=piece_tokens)).batches() == batches


def test_in_order_is_one_piece_of_one_document_after_the_other():
    shape = Shape(in_order=True)
    arranged = shape.arrange(DOCUMENTS.take([2, 0, 3, 1]))
    assert arranged.ids == (0, 1, 2, 3)
    assert Layout.of(arranged, SLIDING, shape).batches() == [[range(place, place + 1) for place in range(4)]]
    assert Shape(rows=2).arrange(DOCUMENTS).ids == (0, 1, 3, 2)
