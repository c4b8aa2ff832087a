"""What the scorer asks of a model: two Protocols, plain arrays in and out.

`Predictor` scores whole windows in parallel and gives the number that is reported. `Stepper` is the same model one
token at a time and drives the proof: it is never handed a token before it has committed its distribution for it. Both
are causal, so whatever stands to the right of a position cannot change its result; the scorer relies on it when it pads
short windows on the right.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

Progress = Callable[[int, int], None]
"""Told how much of the work is done, and of how much, in tokens: scoring counts those read, proving those coded."""


class Predictor(Protocol):
    """A causal model that scores windows. Pure: the same call gives the same result, whatever came before it."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        ...

    @property
    def context(self) -> int:
        """Most input tokens in one window."""
        ...

    def nats(self, inputs: Int64[np.ndarray, "B T"], targets: Int64[np.ndarray, "B S"]) -> Float64[np.ndarray, "B S"]:
        """Return `-log p(target | inputs up to it)` for the targets of the last S inputs, S <= T.

        p comes from a softmax over the whole vocabulary. Sliding windows score few of many positions (S < T), so
        a model need not compute logits for the others.
        """
        ...

    def log_probs(self, inputs: Int64[np.ndarray, "B T"]) -> Float[np.ndarray, "B T V"]:
        """Return the logarithm of the whole distribution of each next token; audits check that it is normalised."""
        ...


class Stepper(Protocol):
    """A causal model, one token at a time, over rows that run in parallel. Rows never influence each other."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        ...

    @property
    def context(self) -> int:
        """Most input tokens between two calls of `begin`."""
        ...

    def begin(self, batch: int) -> None:
        """Forget everything and start `batch` empty rows."""
        ...

    def feed(self, tokens: Int64[np.ndarray, "B T"]) -> Float32[np.ndarray, "B V"]:
        """Append tokens to every row; return log-probabilities (nats) of the token that follows the last one."""
        ...

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these, given as ascending positions in the current batch."""
        ...
