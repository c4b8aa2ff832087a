"""From log-probabilities to bits: an integer frequency table first, then a range coder that knows only the table.

The table of a distribution p over V tokens has 24-bit frequencies `floor(p (2^24 - V)) + 1`, and what rounding leaves
over goes to the likeliest token. So no frequency is zero, they add up to 2^24, and no token costs more than
`-log2 p - log2(1 - V / 2^24)` bits: at V = 2048 at most 0.0002 bits too many.

constriction takes a table as floats and adds the ones itself. Its float arithmetic is exact here, because every
number in it is an integer of at most 24 bits; the tests read the frequencies back from the coder's state.
"""

import constriction
import numpy as np
from jaxtyping import Float32, Int64

from nutshell.errors import ProofError

TOTAL_FREQUENCY = 1 << 24
NORMALISATION_TOLERANCE = 1e-5
"""Largest |logsumexp| in nats: float32 softmax over any real vocabulary stays an order of magnitude below."""

_stream = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # compiled, without stubs
_FAMILY = _stream.model.Categorical(perfect=False)


class UnfitError(ProofError):
    """A row of a batch that is no distribution; whoever knows what the row stands for says it."""

    def __init__(self, row: int, fault: str) -> None:
        super().__init__(f"row {row}: {fault}")
        self.row = row
        self.fault = fault


def frequency_table(log_probs: Float32[np.ndarray, "B V"]) -> Float32[np.ndarray, "B V"]:
    """Fix distributions as integers: per row, each token's frequency less one, adding up to 2^24 - V.

    Raises:
        UnfitError: a row is not finite or does not add up to one.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        probs = np.exp(log_probs, dtype=np.float64)
        totals = probs.sum(axis=1)
        excess = np.log(totals)
    bad = ~(np.isfinite(log_probs).all(axis=1) & (np.abs(excess) <= NORMALISATION_TOLERANCE))
    if bad.any():
        row = int(bad.argmax())
        raise UnfitError(row, f"not a finite, normalised distribution (logsumexp {excess[row]:.3g} nats)")
    num_rows, vocab_size = probs.shape
    spread = TOTAL_FREQUENCY - vocab_size
    probs *= (spread / totals)[:, None]
    np.floor(probs, out=probs)
    probs[np.arange(num_rows), probs.argmax(axis=1)] += spread - probs.sum(axis=1)
    return probs.astype(np.float32)


class Encoder:
    """Appends tokens to a bitstream; first in, first out."""

    def __init__(self) -> None:
        self._coder = _stream.queue.RangeEncoder()

    def put(self, tokens: Int64[np.ndarray, " B"], table: Float32[np.ndarray, "B V"]) -> None:
        """Encode one token per row of a table."""
        self._coder.encode(tokens.astype(np.int32), _FAMILY, table)

    def finish(self) -> bytes:
        """Return the bitstream: little-endian 32-bit words."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class Decoder:
    """Reads the tokens back, given the same tables."""

    def __init__(self, bitstream: bytes) -> None:
        """Start at the first token.

        Raises:
            ProofError: not a whole number of words.
        """
        if len(bitstream) % 4:
            raise ProofError(f"the bitstream has {len(bitstream)} bytes, not a multiple of four: it was cut short")
        self._coder = _stream.queue.RangeDecoder(np.frombuffer(bitstream, "<u4").astype(np.uint32))

    def take(self, table: Float32[np.ndarray, "B V"]) -> Int64[np.ndarray, " B"]:
        """Decode one token per row of a table.

        Raises:
            ProofError: no token fits the bits.
        """
        try:
            return self._coder.decode(_FAMILY, table).astype(np.int64)
        except AssertionError as error:
            raise ProofError(f"the bitstream does not decode ({error})") from error
