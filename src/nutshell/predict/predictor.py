"""A loaded model as the scorer knows models: windows in, nats out; or one token at a time through the cache.

All arithmetic is fp32: a score is a claim, and bf16 would change it in the fourth decimal (docs/log.md).
"""

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.nn.cache import KVCache


class Shipped(Protocol):
    """What is needed of a model that was loaded."""

    @property
    def model(self) -> LM: ...

    @property
    def schedule(self) -> DepthSchedule: ...

    @property
    def context(self) -> int: ...


class ModelPredictor:
    """Scores windows; the context is the window it was trained with."""

    def __init__(self, shipped: Shipped) -> None:
        self._model, self._schedule = shipped.model, shipped.schedule
        self.vocab_size = shipped.model.config.vocab_size
        self.context = shipped.context

    @torch.inference_mode()
    def nats(self, inputs: Int64[np.ndarray, "B T"], targets: Int64[np.ndarray, "B S"]) -> Float64[np.ndarray, "B S"]:
        """Return -log p of the targets of the last S inputs, from the full softmax."""
        logits = self._logits(inputs, last=targets.shape[1])
        nats = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="none")
        return nats.view(targets.shape).double().numpy()

    @torch.inference_mode()
    def log_probs(self, inputs: Int64[np.ndarray, "B T"]) -> Float32[np.ndarray, "B T V"]:
        """Return every next token's log-probability."""
        return self._logits(inputs, last=inputs.shape[1]).log_softmax(dim=-1).numpy()

    def _logits(self, inputs: Int64[np.ndarray, "B T"], *, last: int) -> Tensor:
        stream = self._model.stream(
            torch.from_numpy(inputs), dtype=torch.float32, attend_kind="fused", window=self.context
        )
        x = self._model.trunk(stream, self._schedule)
        return self._model.read_out(x[:, -last:], stream)


class ModelStepper:
    """Reads one token at a time; what it has read is kept in the cache of every virtual layer."""

    def __init__(self, shipped: Shipped) -> None:
        self._model, self._schedule = shipped.model, shipped.schedule
        self.vocab_size = shipped.model.config.vocab_size
        self.context = shipped.context
        self.begin(1)

    def begin(self, batch: int) -> None:
        """Forget everything; the cache takes its batch from the first tokens fed."""
        self._cache = KVCache(self.context)

    @torch.inference_mode()
    def feed(self, tokens: Int64[np.ndarray, "B T"]) -> Float32[np.ndarray, "B V"]:
        """Append tokens to every row; return the next token's log-probabilities."""
        stream = self._model.stream(
            torch.from_numpy(tokens), dtype=torch.float32, attend_kind="fused", cache=self._cache
        )
        x = self._model.trunk(stream, self._schedule)
        self._cache.advance(tokens.shape[1])
        return self._model.read_out(x[:, -1:], stream).squeeze(1).log_softmax(dim=-1).numpy()

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these."""
        self._cache.keep(torch.from_numpy(rows))
