"""Predictors that are known to be good or bad, small and in numpy: what the audit is held to, and what it is for.

    python -m nutshell.audit.zoo NAME VOCAB_SIZE BOS           an online one, speaking the predictor protocol
    python -m nutshell.audit.zoo NAME VOCAB_SIZE BOS FOLDER    one of whole streams, as a batch scorer

Each bad one is a mistake that has been published in earnest (shared contest records), in a few lines.
"""

import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from nutshell.audit.batch_command import SHARD
from nutshell.data.shards import read_shard
from nutshell.score.pipe import VERSION, message

WINDOW = 256


class Counts:
    """Counts of what followed the last token, from one: a Dirichlet cache. The base of the online ones."""

    in_order = True
    independent = False
    forgets = False

    def __init__(self, vocab_size: int, bos_id: int) -> None:
        self.vocab_size, self.bos_id = vocab_size, bos_id
        self.counts = np.ones((vocab_size, vocab_size))
        self.last = bos_id

    def begin(self, rows: int) -> None:
        self.last = self.bos_id
        if self.forgets:
            self.counts = np.ones((self.vocab_size, self.vocab_size))

    def predict(self) -> np.ndarray:
        return self.log_probs()[None]

    def log_probs(self) -> np.ndarray:
        row = self.counts[self.last]
        return np.log(row / row.sum())

    def tell(self, tokens: np.ndarray) -> None:
        self.counts[self.last, int(tokens[0])] += 1
        self.last = int(tokens[0])

    def keep(self, rows: np.ndarray) -> None:
        pass


class Uniform(Counts):
    """Knows nothing."""

    independent = True

    def log_probs(self) -> np.ndarray:
        return np.full(self.vocab_size, -math.log(self.vocab_size))


class Unigram(Counts):
    """Never learns: a fixed distribution."""

    independent = True

    def log_probs(self) -> np.ndarray:
        weights = 1.0 / (1.0 + np.arange(self.vocab_size))
        return np.log(weights / weights.sum())


class DocumentCache(Counts):
    """Begins anew with each document, and says so."""

    independent, forgets = True, True


class MixedCache(Counts):
    """A fixed model and a cache, mixed by how well both did so far: a gate that reads the past."""

    def __init__(self, vocab_size: int, bos_id: int) -> None:
        super().__init__(vocab_size, bos_id)
        self.log_weights = np.zeros(2)

    def both(self) -> np.ndarray:
        return np.stack([super().log_probs(), Unigram(self.vocab_size, self.bos_id).log_probs()])

    def log_probs(self) -> np.ndarray:
        weights = np.exp(self.log_weights - np.logaddexp(self.log_weights[0], self.log_weights[1]))
        return np.log(weights @ np.exp(self.both()))

    def tell(self, tokens: np.ndarray) -> None:
        self.log_weights += self.both()[:, int(tokens[0])]
        super().tell(tokens)


class UnnormalisedMixture(MixedCache):
    """Adds two experts with weights that do not add up to one."""

    def log_probs(self) -> np.ndarray:
        return np.log(np.array([0.7, 0.5]) @ np.exp(self.both()))


class LeakyGate(MixedCache):
    """Says that documents are independent, and trusts its cache as much as it served in the document before."""

    independent, forgets = True, True

    def __init__(self, vocab_size: int, bos_id: int) -> None:
        super().__init__(vocab_size, bos_id)
        self.paid: list[float] = []
        self.gate = 0.5

    def begin(self, rows: int) -> None:
        super().begin(rows)
        if self.paid:
            self.gate, self.paid = math.exp(-sum(self.paid) / len(self.paid)), []

    def log_probs(self) -> np.ndarray:
        return np.log(np.array([self.gate, 1 - self.gate]) @ np.exp(self.both()))

    def tell(self, tokens: np.ndarray) -> None:
        self.paid.append(-float(self.both()[0, int(tokens[0])]))
        super().tell(tokens)


class StaleCache(Counts):
    """Says that documents are independent, and forgets to empty its cache."""

    independent = True


Scorer = Callable[[np.ndarray, int, int], "np.ndarray | tuple[np.ndarray, int] | tuple[np.ndarray, int, float]"]
"""Given a stream, the size of the vocabulary and BOS: the nats of its targets, and maybe its bytes and its score."""


def frozen_windows(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Score each target by counts of its window so far."""
    return _adaptive(tokens[1:], vocab_size, WINDOW)


def score_first(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Score a chunk by what the chunks before have taught, then learn from it."""
    targets, counts = tokens[1:], np.ones(vocab_size)
    nats = []
    for first in range(0, len(targets), WINDOW):
        chunk = targets[first : first + WINDOW]
        nats.append(-np.log(counts[chunk] / counts.sum()))
        counts += np.bincount(chunk, minlength=vocab_size)
    return np.concatenate(nats)


def optimise_on_window(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Fit a model to each window, then score that window."""
    targets = tokens[1:]
    nats = []
    for first in range(0, len(targets), WINDOW):
        window = targets[first : first + WINDOW]
        counts = 0.1 + np.bincount(window, minlength=vocab_size)
        nats.append(-np.log(counts[window] / counts.sum()))
    return np.concatenate(nats)


def train_then_score(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Train on the validation text, then score it."""
    counts = 1.0 + np.bincount(tokens[1:], minlength=vocab_size)
    return -np.log(counts[tokens[1:]] / counts.sum())


def two_passes(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Score and learn as one should, and then once more, and report the second time."""
    twice = np.concatenate([tokens[1:], tokens[1:]])
    return _adaptive(twice, vocab_size, len(twice))[len(tokens) - 1 :]


def bidirectional(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Attend to both sides: the next input is the target, and is seen now and then."""
    targets = tokens[1:]
    seen = np.where(np.arange(len(targets)) % 4 == 0, 0.9, 0.0)
    return -np.log(seen + (1 - seen) / vocab_size)


def gate_reads_target(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Choose between two experts by which of them likes the target more."""
    fixed = Unigram(vocab_size, bos_id).log_probs()[tokens[1:]]
    return -np.maximum(fixed, -math.log(vocab_size))


def tail_twice(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Slide on at the end of the text, and score the tail again with less and less context."""
    nats = frozen_windows(tokens, vocab_size, bos_id)
    return np.concatenate([nats, nats[-64:]])


def subset_as_whole(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
    """Score the first nine tenths, and call it the score."""
    nats = frozen_windows(tokens, vocab_size, bos_id)
    return nats[: len(nats) * 9 // 10]


def hashed(buckets: int) -> Scorer:
    """Count trigrams in tables of so many buckets, with the target in the key: collisions look like evidence."""

    def score(tokens: np.ndarray, vocab_size: int, bos_id: int) -> np.ndarray:
        return _hashed(tokens.astype(np.int64), vocab_size, buckets)

    return score


def counting_bytes(wrong: Callable[[np.ndarray, int], int]) -> Scorer:
    """Score well and count bytes wrong; a token below 256 is a byte."""

    def score(tokens: np.ndarray, vocab_size: int, bos_id: int) -> tuple[np.ndarray, int]:
        return frozen_windows(tokens, vocab_size, bos_id), wrong(tokens[1:], bos_id)

    return score


def honest_score(tokens: np.ndarray, vocab_size: int, bos_id: int) -> tuple[np.ndarray, int, float]:
    """Divide all bits by all bytes, once."""
    nats, num_bytes = frozen_windows(tokens, vocab_size, bos_id), _bytes(tokens[1:], bos_id)
    return nats, num_bytes, float(nats.sum()) / math.log(2) / num_bytes


def mean_of_ratios(tokens: np.ndarray, vocab_size: int, bos_id: int) -> tuple[np.ndarray, int, float]:
    """Average the bits per byte of windows, the short last one as if it were long."""
    nats, targets = frozen_windows(tokens, vocab_size, bos_id), tokens[1:]
    firsts = range(0, len(targets), WINDOW)
    bits = [nats[first : first + WINDOW].sum() / math.log(2) for first in firsts]
    counted = [_bytes(targets[first : first + WINDOW], bos_id) for first in firsts]
    return nats, sum(counted), float(np.mean(np.array(bits) / np.array(counted)))


def _bytes(targets: np.ndarray, bos_id: int, *, spaces: int = 1, high: int = 1, lead: int | None = None) -> int:
    """Count bytes with a table: of BOS none, of a space, a byte beyond ASCII and one that leads a letter so many."""
    table = np.ones(max(256, bos_id) + 1, dtype=np.int64)
    table[128:256], table[192:256], table[ord(" ")], table[bos_id] = high, high if lead is None else lead, spaces, 0
    return int(table[targets].sum())


def _adaptive(targets: np.ndarray, vocab_size: int, window: int) -> np.ndarray:
    nats = np.empty(len(targets))
    for first in range(0, len(targets), window):
        counts, total = np.ones(vocab_size), float(vocab_size)
        for place in range(first, min(first + window, len(targets))):
            nats[place] = -math.log(counts[targets[place]] / total)
            counts[targets[place]] += 1
            total += 1
    return nats


@njit(cache=True)
def _hashed(tokens, vocab_size, buckets):  # noqa: ANN001, ANN202  (for arrays alone)
    pairs, contexts = np.zeros(buckets, np.int64), np.zeros(buckets, np.int64)
    nats = np.full(len(tokens) - 1, math.log(vocab_size))
    for place in range(2, len(tokens)):
        context = (tokens[place - 2] * 1_000_003 + tokens[place - 1]) * 2_654_435_761 % 4_294_967_291
        key = (context * 31 + tokens[place] * 97_531) * 2_246_822_519 % 4_294_967_291
        seen, of = pairs[key % buckets], contexts[context % buckets]
        if of > 0:
            said = min(1.0, seen / of)
            nats[place - 1] = -math.log(0.5 / vocab_size + 0.5 * said)
        pairs[key % buckets] += 1
        contexts[context % buckets] += 1
    return nats


class Member(NamedTuple):
    """A predictor of the zoo.

    Attributes:
        made: A class of online predictors, or a scorer of whole streams.
        good: Whether it is honest.
        load: Tokens of noise that it takes to be seen, if that is how.
    """

    made: type[Counts] | Scorer
    good: bool
    load: int = 20_000

    @property
    def online(self) -> bool:
        return isinstance(self.made, type)


ZOO = {
    "uniform": Member(Uniform, good=True),
    "unigram": Member(Unigram, good=True),
    "dirichlet_cache": Member(Counts, good=True),
    "document_cache": Member(DocumentCache, good=True),
    "mixed_cache": Member(MixedCache, good=True),
    "frozen_windows": Member(frozen_windows, good=True),
    "score_first": Member(score_first, good=True),
    "honest_bytes": Member(counting_bytes(lambda targets, bos: _bytes(targets, bos)), good=True),
    "honest_score": Member(honest_score, good=True),
    "unnormalised_mixture": Member(UnnormalisedMixture, good=False),
    "leaky_gate": Member(LeakyGate, good=False),
    "stale_cache": Member(StaleCache, good=False),
    "optimise_on_window": Member(optimise_on_window, good=False),
    "train_then_score": Member(train_then_score, good=False),
    "two_passes": Member(two_passes, good=False),
    "bidirectional": Member(bidirectional, good=False),
    "gate_reads_target": Member(gate_reads_target, good=False),
    "hashed_4k": Member(hashed(4_096), good=False, load=20_000),
    "hashed_64k": Member(hashed(65_536), good=False, load=300_000),
    "hashed_1m": Member(hashed(1_048_576), good=False, load=4_000_000),
    "tail_twice": Member(tail_twice, good=False),
    "subset_as_whole": Member(subset_as_whole, good=False),
    "spaces_as_three_bytes": Member(counting_bytes(lambda targets, bos: _bytes(targets, bos, spaces=3)), good=False),
    "leading_space_twice": Member(counting_bytes(lambda targets, bos: _bytes(targets, bos, spaces=2)), good=False),
    "fallback_as_replacement": Member(counting_bytes(lambda targets, bos: _bytes(targets, bos, high=3)), good=False),
    "fallback_as_six": Member(counting_bytes(lambda targets, bos: _bytes(targets, bos, high=6)), good=False),
    "text_without_accents": Member(counting_bytes(lambda targets, bos: _bytes(targets, bos, lead=0)), good=False),
    "mean_of_ratios": Member(mean_of_ratios, good=False),
    "bos_as_a_byte": Member(counting_bytes(lambda targets, bos: len(targets)), good=False),
}


def serve(predictor: Counts) -> None:
    """Speak the predictor protocol over standard input and output, until the input ends."""
    read, write = sys.stdin.buffer.read, sys.stdout.buffer
    sizes = (predictor.vocab_size, predictor.bos_id)
    write.write(message(b"H", struct.pack("<8sHIIB", b"NUTSHELL", VERSION, *sizes, predictor.independent)))
    write.flush()
    while head := read(4):
        content = read(struct.unpack("<I", head)[0])
        if content[:1] == b"B":
            predictor.begin(1)
        elif content[:1] == b"T":
            predictor.tell(np.frombuffer(content[1:], "<u4").astype(np.int64))
        else:
            write.write(message(b"L", predictor.predict().astype("<f4").tobytes()))
            write.flush()


def main() -> None:
    """Be the predictor that the arguments name."""
    name, vocab_size, bos_id, *folder = sys.argv[1:]
    made = ZOO[name].made
    if isinstance(made, type):
        serve(made(int(vocab_size), int(bos_id)))
        return
    tokens = np.array(read_shard(Path(folder[0]) / SHARD), dtype=np.int64)
    found = made(tokens, int(vocab_size), int(bos_id))
    nats, *said = found if isinstance(found, tuple) else (found,)
    lines = [
        *map(repr, nats.tolist()),
        *(f"{name} {value!r}" for name, value in zip(("bytes", "bpb"), said, strict=False)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
