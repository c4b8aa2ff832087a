"""The windows of an epoch in the order in which they are read, for each kind: a pure function of (seed, epoch)."""

import math
from typing import Protocol

import numpy as np

from nutshell.data.loading.config import CoprimeConfig, LoaderConfig, RingConfig, SequentialConfig, ShuffledConfig
from nutshell.data.loading.cuts import Starts, document_windows, stream_windows
from nutshell.data.shards import TokenStream
from nutshell.errors import DataError


class Order(Protocol):
    """Where the windows of an epoch begin, first read first."""

    def starts(self, epoch: int, seq_len: int) -> Starts:
        """Give positions below the number of tokens; a window that runs over the end goes on at the beginning."""
        ...


def build_order(config: LoaderConfig, tokens: TokenStream, *, bos_id: int, seed: int) -> Order:
    """Build the order that a recipe chose.

    Raises:
        DataError: rows are to begin at documents, and the text has no BOS.
    """
    bos = tokens.find(bos_id) if config.align == "documents" else None
    if bos is not None and not len(bos):
        raise DataError(
            f"the training text has no BOS (token {bos_id}) for rows to begin at; set train.loader.align to stream"
        )
    match config:
        case RingConfig():
            return _RingOrder(len(tokens), bos, seed)
        case SequentialConfig():
            return _SequentialOrder(len(tokens), bos, seed if config.start == "drawn" else None)
        case ShuffledConfig():
            return _ShuffledOrder(_Shards(tokens, bos), seed)
        case CoprimeConfig():
            return _CoprimeOrder(_Shards(tokens, bos), seed, config.shards_at_once)


class _RingOrder:
    """All windows of the ring, from a new phase and in a new order each epoch; fewer than T tokens are no target."""

    def __init__(self, num_tokens: int, bos: Starts | None, seed: int) -> None:
        self._num_tokens, self._bos, self._seed = num_tokens, bos, seed

    def starts(self, epoch: int, seq_len: int) -> Starts:
        rng = np.random.default_rng([self._seed, epoch])
        first = int(rng.integers(self._num_tokens if self._bos is None else len(self._bos)))
        windows = _ring_windows(first, self._num_tokens, self._bos, seq_len)
        return windows[rng.permutation(len(windows))]


class _SequentialOrder:
    """The ring from its start on, forwards; the windows of one epoch begin where those of the last one ended."""

    def __init__(self, num_tokens: int, bos: Starts | None, seed: int | None) -> None:
        """Draw the start by the seed; without one it is the first token, or the first document."""
        self._num_tokens, self._bos = num_tokens, bos
        starts = num_tokens if bos is None else len(bos)
        self._first = 0 if seed is None else int(np.random.default_rng(seed).integers(starts))

    def starts(self, epoch: int, seq_len: int) -> Starts:
        first = self._first
        if self._bos is None:
            first += epoch * (self._num_tokens // seq_len) * seq_len
        return _ring_windows(first, self._num_tokens, self._bos, seq_len)


def _ring_windows(first: int, num_tokens: int, bos: Starts | None, seq_len: int) -> Starts:
    """Go round the ring once from token `first`, or from document `first`."""
    if bos is None:
        return stream_windows(first, first + num_tokens, seq_len) % num_tokens
    turned = np.concatenate([bos[first:], bos[:first] + num_tokens])
    return document_windows(turned, int(turned[0]) + num_tokens, seq_len) % num_tokens


class _Shards:
    """The windows of each shard: they read no token of another one."""

    def __init__(self, tokens: TokenStream, bos: Starts | None) -> None:
        self._edges = tokens.edges
        self._bos = bos

    def windows(self, rng: np.random.Generator, seq_len: int) -> list[Starts]:
        """Cut each shard from a drawn phase below T, or from a document drawn among those that begin so early."""
        return [
            self._cut(int(start), int(stop) - 1, rng, seq_len)
            for start, stop in zip(self._edges[:-1], self._edges[1:], strict=True)
        ]

    def _cut(self, start: int, last: int, rng: np.random.Generator, seq_len: int) -> Starts:
        """Cut the shard whose first token is at `start` and whose last at `last`."""
        if self._bos is None:
            room = max(last - seq_len - start + 1, 1)
            return stream_windows(start + int(rng.integers(min(seq_len, room))), last, seq_len)
        bos = self._bos[np.searchsorted(self._bos, start) : np.searchsorted(self._bos, last)]
        early = bos[(bos < bos[:1] + seq_len) & (bos + seq_len <= last)]
        skipped = int(rng.integers(max(len(early), 1)))
        return document_windows(bos[skipped:], last, seq_len)


class _ShuffledOrder:
    """All shards' windows in one drawn order; choosing a shard by its windows left, then one of them, is the same."""

    def __init__(self, shards: _Shards, seed: int) -> None:
        self._shards, self._seed = shards, seed

    def starts(self, epoch: int, seq_len: int) -> Starts:
        rng = np.random.default_rng([self._seed, epoch])
        windows = np.concatenate(self._shards.windows(rng, seq_len))
        return windows[rng.permutation(len(windows))]


class _CoprimeOrder:
    """Each shard by its stride; a window's shard is drawn by how many windows the shards have left."""

    def __init__(self, shards: _Shards, seed: int, shards_at_once: int | None) -> None:
        self._shards, self._seed, self._at_once = shards, seed, shards_at_once

    def starts(self, epoch: int, seq_len: int) -> Starts:
        rng = np.random.default_rng([self._seed, epoch])
        walks = [_coprime_walk(windows, rng) for windows in self._shards.windows(rng, seq_len)]
        opened = rng.permutation(len(walks)).tolist()
        at_once = self._at_once or len(walks)
        groups = [opened[first : first + at_once] for first in range(0, len(opened), at_once)]
        return np.concatenate([_interleave([walks[shard] for shard in group], rng) for group in groups])


def _coprime_walk(windows: Starts, rng: np.random.Generator) -> Starts:
    """Visit every window once: a stride without a common divisor with their number comes back only after all."""
    count = len(windows)
    if not count:
        return windows
    first, stride = int(rng.integers(count)), int(rng.integers(1, count + 1))
    while math.gcd(stride, count) != 1:
        stride = int(rng.integers(1, count + 1))
    return windows[(first + stride * np.arange(count)) % count]


def _interleave(walks: list[Starts], rng: np.random.Generator) -> Starts:
    """Merge walks at random, each in its own order."""
    turns = np.repeat(np.arange(len(walks)), [len(walk) for walk in walks])
    merged = np.empty(len(turns), dtype=np.int64)
    merged[np.argsort(rng.permutation(turns), kind="stable")] = np.concatenate(walks)
    return merged
