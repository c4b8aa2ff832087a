"""Training batches as a pure function of (seed, step), so that resuming needs no state but the step.

The tokens are taken as a ring, cut into windows that follow one another from a random phase, and visited in random
order; every epoch draws a new phase and a new order. A window of T inputs reads one more token, its last target, which
is the first input of the next window. So an epoch has each target once, but for fewer than T that no window reaches.
"""

import functools
from typing import Protocol

import numpy as np
from jaxtyping import Int64

from nutshell.data.shards import Tokens
from nutshell.errors import DataError


class TokenSource(Protocol):
    """What batches are cut from: an array, a memory map, or a stream of shards."""

    def __len__(self) -> int: ...

    def __getitem__(self, window: slice, /) -> Tokens: ...


class Batches:
    """Shuffled windows of a text."""

    def __init__(self, tokens: TokenSource, *, batch_size: int, seq_len: int, seed: int) -> None:
        """Lay out the windows.

        Raises:
            DataError: the text is too short for even one window.
        """
        assert batch_size > 0
        assert seq_len > 0
        if len(tokens) <= seq_len:
            raise DataError(
                f"the training text has {len(tokens):,} tokens, too few for one window of {seq_len:,} and its target; "
                "give more text or a smaller seq_len"
            )
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.windows_per_epoch = len(tokens) // seq_len
        self._tokens = tokens
        self._seed = seed

    def batch(self, step: int) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B T"]]:
        """Cut the inputs and targets of a step; steps count from 0 and may be asked for in any order."""
        windows = np.stack([self._window(step * self.batch_size + row) for row in range(self.batch_size)])
        return windows[:, :-1], windows[:, 1:]

    def _window(self, index: int) -> Int64[np.ndarray, " N"]:
        epoch, position = divmod(index, self.windows_per_epoch)
        start = int(_window_starts(len(self._tokens), self.seq_len, self._seed, epoch)[position])
        stop = start + self.seq_len + 1
        tokens = self._tokens[start:stop]
        if stop > len(self._tokens):
            tokens = np.concatenate([tokens, self._tokens[0 : stop - len(self._tokens)]])
        return tokens.astype(np.int64)


# A batch touches at most the end of one epoch and the start of the next, unless the text is tiny.
@functools.lru_cache(maxsize=2)
def _window_starts(num_tokens: int, seq_len: int, seed: int, epoch: int) -> Int64[np.ndarray, " N"]:
    rng = np.random.default_rng([seed, epoch])
    phase = rng.integers(num_tokens)
    return (phase + seq_len * rng.permutation(num_tokens // seq_len)) % num_tokens
