"""A loaded model as the scorer knows models: windows in, nats out; or one token at a time through the cache.

All arithmetic is fp32: a score is a claim, and bf16 would change it in the fourth decimal (docs/log.md).
"""

from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int64
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.errors import RecipeError
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.seams import Stream
from nutshell.nn.cache import MOST_TOKENS, KVCache

Positions = Literal["rescaled", "plain"]
"""Rotary positions in windows longer than the trained: their base grows with the window, or stays the trained one."""


class Shipped(Protocol):
    """What is needed of a model that was loaded."""

    @property
    def model(self) -> LM: ...

    @property
    def schedule(self) -> DepthSchedule: ...

    @property
    def context(self) -> int: ...


class ModelPredictor:
    """Scores windows.

    Args:
        shipped: The model; its context is the window that it was trained with.
        context: Most tokens of a window; the trained one's unless given.
        positions: What becomes of positions if that is more.

    Raises:
        RecipeError: no model takes such a context, or its positions have no base to rescale.
    """

    def __init__(self, shipped: Shipped, *, context: int | None = None, positions: Positions = "rescaled") -> None:
        self._model, self._schedule = shipped.model, shipped.schedule
        self.vocab_size = shipped.model.config.vocab_size
        self.context = shipped.context if context is None else context
        self._rotary_base = rotary_base(shipped, self.context, positions)

    @torch.inference_mode()
    def nats(self, inputs: Int64[np.ndarray, "B T"], targets: Int64[np.ndarray, "B S"]) -> Float64[np.ndarray, "B S"]:
        """Return -log p of the targets of the last S inputs, from the full softmax."""
        return target_nats(self._logits(inputs, last=targets.shape[1]), targets)

    @torch.inference_mode()
    def log_probs(self, inputs: Int64[np.ndarray, "B T"]) -> Float32[np.ndarray, "B T V"]:
        """Return every next token's log-probability."""
        return self._logits(inputs, last=inputs.shape[1]).log_softmax(dim=-1).numpy()

    def _logits(self, inputs: Int64[np.ndarray, "B T"], *, last: int) -> Tensor:
        stream = self._model.stream(
            torch.from_numpy(inputs), dtype=torch.float32, attend_kind="fused", rotary_base=self._rotary_base
        )
        x = self._model.trunk(stream, self._schedule)
        return self._model.read_out(x[:, -last:], stream)


class ModelStepper:
    """Reads one token at a time; what it has read is kept in the cache of every virtual layer.

    Arguments and errors are those of `ModelPredictor`.
    """

    def __init__(self, shipped: Shipped, *, context: int | None = None, positions: Positions = "rescaled") -> None:
        self._model, self._schedule = shipped.model, shipped.schedule
        self.vocab_size = shipped.model.config.vocab_size
        self.context = shipped.context if context is None else context
        self._rotary_base = rotary_base(shipped, self.context, positions)
        self.begin(1)

    def begin(self, batch: int) -> None:
        """Forget everything; the cache takes its batch from the first tokens fed."""
        self._cache = KVCache(self.context)

    @torch.inference_mode()
    def feed(self, tokens: Int64[np.ndarray, "B T"]) -> Float32[np.ndarray, "B V"]:
        """Append tokens to every row; return the next token's log-probabilities."""
        stream = self._stream(tokens)
        x = self._model.trunk(stream, self._schedule)
        self._cache.advance(tokens.shape[1])
        return self._model.read_out(x[:, -1:], stream).squeeze(1).log_softmax(dim=-1).numpy()

    @torch.inference_mode()
    def forget_all_but(self, num_tokens: int) -> None:
        """Forget the oldest tokens; keys and values of the last ones stay, as they were computed in their time."""
        self._cache.forget_all_but(num_tokens)

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these."""
        self._cache.keep(torch.from_numpy(rows))

    def _stream(self, tokens: Int64[np.ndarray, "B T"]) -> Stream:
        return self._model.stream(
            torch.from_numpy(tokens),
            dtype=torch.float32,
            attend_kind="fused",
            cache=self._cache,
            rotary_base=self._rotary_base,
        )


def target_nats(logits: Tensor, targets: Int64[np.ndarray, "B S"]) -> Float64[np.ndarray, "B S"]:
    """Give -log p of each target, from the logits of its position."""
    nats = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="none")
    return nats.view(targets.shape).double().numpy()


def rotary_base(shipped: Shipped, context: int, positions: Positions) -> float:
    """Give the base of rotary positions in windows of some context.

    Up to the trained window it is the trained one. Beyond, `rescaled` raises it as published (`RotaryConfig.base_in`;
    openai/parameter-golf 167 and 1493, shared/spec/layer-sharing-167.md 1.1, sp8192-loop36.md 1.2).

    Raises:
        RecipeError: no model takes such a context, or two channels turn, which have no base to rescale.
    """
    if not 1 <= context <= MOST_TOKENS:
        raise RecipeError(f"scoring context {context}: choose from 1 to {MOST_TOKENS} tokens, which a cache may hold")
    config = shipped.model.config
    rotary, dims, trained = config.attention.rotary, config.rotary_dims, shipped.context
    if positions == "plain" or context <= trained:
        return rotary.base_in(trained, dims)
    return rotary.base_in(context, dims, trained=trained)
