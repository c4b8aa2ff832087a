"""A loaded model that reads on and on: each token once, and the last of them stay in sight through the cache."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64

from nutshell.nn.cache import KVCache
from nutshell.predict.predictor import Positions, Shipped, rotary_base, target_nats


class RollingReader:
    """Scores the windows of documents side by side as a row learner does: what it learns of them are keys and values.

    They are those of the tokens that one window shares with the next, and the oldest are forgotten. In deep layers they
    were computed from what was in sight then, so they may say of the text what no window holds any more. A key keeps
    the angle of the position at which it was read: rotary attention is of distances alone, so positions may go on
    beyond any window. What looks one token back sees that token, held or not.

    Args:
        shipped: The model; its context is the window that it was trained with.
        context: Most tokens in sight at once; the trained window unless given.
        positions: What becomes of positions if that is more.
        batch_tokens: Most tokens in one forward; a first window of many rows is read in pieces.

    Raises:
        RecipeError: no model takes such a context, or its positions have no base to rescale.
    """

    def __init__(
        self,
        shipped: Shipped,
        *,
        context: int | None = None,
        positions: Positions = "rescaled",
        batch_tokens: int = 2_048,
    ) -> None:
        self._model, self._schedule = shipped.model, shipped.schedule
        self.vocab_size = shipped.model.config.vocab_size
        self.context = shipped.context if context is None else context
        self._rotary_base = rotary_base(shipped, self.context, positions)
        self._batch_tokens = batch_tokens
        self.begin(1)

    def begin(self, rows: int) -> None:
        """Forget everything; the cache takes its rows from the first tokens read."""
        self._cache = KVCache(self.context)

    @torch.inference_mode()
    def nats(self, inputs: Int64[np.ndarray, "B T"], targets: Int64[np.ndarray, "B S"]) -> Float64[np.ndarray, "B S"]:
        """Return -log p of the targets of the last S inputs; only these are read, those before have been."""
        new = targets.shape[1]
        remembered = inputs.shape[1] - new
        assert remembered <= self._cache.length, "a window begins with tokens that were never read"
        self._cache.forget_all_but(remembered)
        size = max(1, self._batch_tokens // len(inputs))
        pieces = [
            self._read(inputs[:, remembered + first : remembered + first + size], targets[:, first : first + size])
            for first in range(0, new, size)
        ]
        return np.concatenate(pieces, axis=1)

    def _read(self, inputs: Int64[np.ndarray, "B T"], targets: Int64[np.ndarray, "B T"]) -> Float64[np.ndarray, "B T"]:
        """Append inputs to every row; give the nats of the target after each."""
        stream = self._model.stream(
            torch.from_numpy(inputs),
            dtype=torch.float32,
            attend_kind="fused",
            cache=self._cache,
            rotary_base=self._rotary_base,
        )
        x = self._model.trunk(stream, self._schedule)
        self._cache.advance(inputs.shape[1])
        return target_nats(self._model.read_out(x, stream), targets)

    def observe(self, scored: Sequence[Any]) -> None:
        """Learn nothing else: it remembers what it reads, and reads before the target."""

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these."""
        self._cache.keep(torch.from_numpy(rows))
