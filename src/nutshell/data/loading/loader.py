"""Training batches as a pure function of how many tokens were trained on, so that resuming needs no other state.

The windows of one epoch follow those of the last without a gap, and the position in tokens says which is next. Batch
size and ranks only group the same windows. A run that changes its context length goes on in another cut of the text at
the same position: until that epoch ends, tokens may come again or stay out.
"""

import bisect
import functools

import numpy as np
from jaxtyping import Int64

from nutshell.data.loading.config import LoaderConfig
from nutshell.data.loading.cuts import Starts
from nutshell.data.loading.orders import Order, build_order
from nutshell.data.shards import TokenStream
from nutshell.errors import DataError

Batch = tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B T"]]
"""Inputs, and targets, which are the tokens that follow them."""


class Loader:
    """Cuts batches out of a text, in an order; reads the text only where it cuts."""

    def __init__(self, order: Order, tokens: TokenStream) -> None:
        self._tokens = tokens
        # A batch touches at most the end of one epoch and the start of the next, unless the text is tiny.
        self._starts = functools.lru_cache(maxsize=2)(order.starts)
        self._epoch_ends: dict[int, list[int]] = {}

    def batch(self, position: int, *, batch_size: int, seq_len: int, rows: slice = slice(None)) -> Batch:
        """Cut the batch that follows `position`, or the rows of it that a rank wants.

        Args:
            position: training tokens consumed so far, by all ranks.
            batch_size: rows of the whole batch, B.
            seq_len: tokens of a row, T.
            rows: which of the B rows to return.

        Raises:
            DataError: the text is too short for even one window.
        """
        wanted = range(batch_size)[rows]
        inputs = np.empty((len(wanted), seq_len), dtype=np.int64)
        targets = np.empty_like(inputs)
        for index, row in enumerate(wanted):
            window = self._window(position // seq_len + row, seq_len)
            inputs[index], targets[index] = window[:-1], window[1:]
        return inputs, targets

    def windows(self, seq_len: int, epoch: int = 0) -> int:
        """Count the windows of an epoch.

        Raises:
            DataError: the text is too short for even one.
        """
        return len(self._epoch(epoch, seq_len))

    def skipped(self, seq_len: int, epoch: int = 0) -> float:
        """Give the share of the text's tokens that are no target in an epoch; none is one twice.

        Raises:
            DataError: the text is too short for even one window.
        """
        return 1.0 - self.windows(seq_len, epoch) * seq_len / len(self._tokens)

    def _window(self, index: int, seq_len: int) -> Int64[np.ndarray, " N"]:
        """Read the T + 1 tokens of a window, counted over all epochs."""
        ends = self._epoch_ends.setdefault(seq_len, [])
        while not ends or ends[-1] <= index:
            ends.append((ends[-1] if ends else 0) + self.windows(seq_len, len(ends)))
        epoch = bisect.bisect_right(ends, index)
        before = ends[epoch - 1] if epoch else 0
        start = int(self._epoch(epoch, seq_len)[index - before])
        stop = start + seq_len + 1
        tokens = self._tokens[start:stop]
        over = stop - len(self._tokens)
        return np.concatenate([tokens, self._tokens[0:over]]) if over > 0 else tokens

    def _epoch(self, epoch: int, seq_len: int) -> Starts:
        if len(self._tokens) <= seq_len:
            raise DataError(
                f"the training text has {len(self._tokens):,} tokens, too few for one window of {seq_len:,} and its "
                "target; give more text or a smaller seq_len"
            )
        starts = self._starts(epoch, seq_len)
        if not len(starts):
            raise DataError(
                f"no window of {seq_len:,} tokens and its target fits where train.loader lets one begin; give more "
                'text, a smaller seq_len, or train.loader = { kind = "ring" }'
            )
        return starts


def build_loader(config: LoaderConfig, tokens: TokenStream, *, bos_id: int, seed: int) -> Loader:
    """Build the loader that a recipe chose; `seed` draws the order.

    Raises:
        DataError: rows are to begin at documents, and the text has no BOS.
    """
    return Loader(build_order(config, tokens, bos_id=bos_id, seed=seed), tokens)
