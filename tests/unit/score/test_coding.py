"""The coder against its bound and against its own state: the table handed over is the table that codes."""

import numpy as np
import pytest

from nutshell.errors import ProofError
from nutshell.score.coding import TOTAL_FREQUENCY, Decoder, Encoder, UnfitError, frequency_table


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)


def distributions(vocab_size, num_rows=40, seed=0):
    """From nearly uniform to so sharp that most probabilities underflow."""
    rng = np.random.default_rng(seed)
    return log_softmax(rng.normal(size=(num_rows, vocab_size)) * np.geomspace(0.01, 100, num_rows)[:, None])


@pytest.mark.parametrize("vocab_size", [2, 257, 1024, 8192, 65536])
def test_a_table_is_whole_and_nearly_optimal(vocab_size):
    log_probs = distributions(vocab_size)
    frequencies = frequency_table(log_probs).astype(np.int64) + 1
    assert (frequencies >= 1).all()
    assert (frequencies.sum(axis=1) == TOTAL_FREQUENCY).all()
    # What the module promises: no token costs more than this above -log2 p. Slack: float32 rows do not add up to one.
    bound = -np.log2(1 - vocab_size / TOTAL_FREQUENCY) + 1e-5
    excess = -np.log2(frequencies / TOTAL_FREQUENCY) + log_probs.astype(np.float64) / np.log(2)
    assert excess.max() <= bound


@pytest.mark.parametrize("vocab_size", [2, 257, 2048, 50_000])
def test_the_coder_uses_exactly_our_frequencies(vocab_size):
    """Its state after one token is the range 2^64 - 1, cut to 24 bits of precision, times the frequency."""
    table = frequency_table(distributions(vocab_size))
    rng = np.random.default_rng(1)
    for row in table:
        for token in {0, vocab_size - 1, int(row.argmax()), int(rng.integers(vocab_size))}:
            encoder = Encoder()
            encoder.put(np.array([token]), row[None])
            _, (_, state_range) = encoder._coder.pos()
            expected = (((1 << 64) - 1) >> 24) * (int(row[token]) + 1)
            assert state_range == (expected if expected >= 1 << 32 else expected << 32)


@pytest.mark.parametrize("vocab_size", [2, 257, 2048])
def test_the_bitstream_is_as_long_as_the_information(vocab_size):
    table = frequency_table(distributions(vocab_size))
    rng = np.random.default_rng(2)
    encoder = Encoder()
    coded, bits = [], 0.0
    for _ in range(100):
        tokens = np.array([rng.choice(vocab_size, p=(row + 1) / TOTAL_FREQUENCY) for row in table.astype(np.float64)])
        encoder.put(tokens, table)
        coded.append(tokens)
        bits -= np.log2((table[np.arange(len(table)), tokens] + 1.0) / TOTAL_FREQUENCY).sum()
    bitstream = encoder.finish()
    assert bits - 1 <= 8 * len(bitstream) <= bits * 1.0001 + 64
    decoder = Decoder(bitstream)
    for tokens in coded:
        assert (decoder.take(table) == tokens).all()


def test_tokens_of_no_probability_survive():
    log_probs = np.full((1, 4), -1e4, dtype=np.float32)
    log_probs[0, 2] = 0.0
    table = frequency_table(log_probs)
    encoder = Encoder()
    for token in (0, 2, 3, 1):
        encoder.put(np.array([token]), table)
    bitstream = encoder.finish()
    decoder = Decoder(bitstream)
    assert [int(decoder.take(table)[0]) for _ in range(4)] == [0, 2, 3, 1]
    assert 8 * len(bitstream) >= 3 * 24


def test_the_bitstream_is_pinned():
    """A proof stored today must decode with tomorrow's versions."""
    encoder = Encoder()
    table = frequency_table(np.log(np.array([[0.5, 0.25, 0.125, 0.125]], dtype=np.float32)))
    for token in [0, 1, 2, 3, 0, 0, 1, 3] * 6:
        encoder.put(np.array([token]), table)
    assert encoder.finish().hex() == "605c975bb0090d87a2867dfbf5fff813"


def fault(log_probs):
    with pytest.raises(UnfitError) as caught:
        frequency_table(log_probs)
    return caught.value


def test_what_is_no_distribution_is_refused_by_row():
    good = distributions(100, num_rows=5)
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[3, 7] = value
        assert fault(bad).row == 3
        assert "not a finite, normalised distribution" in fault(bad).fault
    for shift in (2e-5, -2e-5):
        bad = good.copy()
        bad[2:] += shift
        assert fault(bad).row == 2
        assert "logsumexp" in fault(bad).fault
    for scale in (1, 1000):  # the larger ones overflow
        logits = np.random.default_rng(0).normal(size=(1, 100)).astype(np.float32) * scale
        assert fault(logits).row == 0
    assert isinstance(fault(logits), ProofError)


def test_rounding_of_float32_is_no_fault_and_moves_no_mass():
    log_probs = distributions(65_536, num_rows=8)
    moved = frequency_table(log_probs + np.float32(5e-6)) - frequency_table(log_probs)
    assert np.abs(moved).max() <= 40


def test_bits_that_no_token_fits_are_refused():
    decoder = Decoder(b"\xff" * 36)
    with pytest.raises(ProofError, match="the bitstream does not decode"):
        decoder.take(frequency_table(distributions(257, num_rows=1)))


def test_a_bitstream_cut_inside_a_word_is_refused():
    with pytest.raises(ProofError, match="has 7 bytes, not a multiple of four"):
        Decoder(b"1234567")
