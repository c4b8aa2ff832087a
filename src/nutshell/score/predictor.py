"""What the scorer asks of a model: Protocols, plain arrays in and out.

`Predictor` scores whole windows in parallel and gives the number that is reported. `Stepper` is the same model one
token at a time. Both are causal, so whatever stands to the right of a position cannot change its result; the scorer
relies on it when it pads short windows on the right.

`OnlinePredictor` is a whole strategy as a decoder meets it, and what a proof and an audit are about: it says what it
expects next, and only then is told what came. When it forgets, what it looks back on and when it learns is its affair.

`Learner` and `RowLearner` change while they are scored. They are handed `Scored` tokens, which only a ledger makes, of
targets that it has charged: what is not graded yet cannot be learned from.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

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


class RollingStepper(Stepper, Protocol):
    """A stepper that can read on beyond its context."""

    def forget_all_but(self, num_tokens: int) -> None:
        """Forget the oldest tokens of every row; of what is left it keeps what it knew."""
        ...


class OnlinePredictor(Protocol):
    """Predicts the token that comes next in each row, and is then told it. Rows are documents that run side by side.

    Rows never influence each other. What came in earlier documents may, if `in_order` says so.
    """

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        ...

    @property
    def in_order(self) -> bool:
        """Whether documents must come one at a time, in the order of the text, because it goes on learning."""
        ...

    def begin(self, rows: int) -> None:
        """Start so many documents, in which nothing has come yet."""
        ...

    def predict(self) -> Float[np.ndarray, "B V"]:
        """Return the log-probabilities (nats) of each row's next token; called once for each token."""
        ...

    def tell(self, tokens: Int64[np.ndarray, " B"]) -> None:
        """Say which tokens came; BOS ends its document, and `keep` or `begin` follows."""
        ...

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these, given as ascending positions in the current batch."""
        ...


class Scored(NamedTuple):
    """A stretch of a sequence that the ledger has charged: `inputs[i]` came before `targets[i]`, [T] each."""

    inputs: Int64[np.ndarray, " T"]
    targets: Int64[np.ndarray, " T"]


class Learner(Predictor, Protocol):
    """A predictor that learns between the chunks of a text. Between two calls of `observe` it is pure."""

    def observe(self, chunk: Sequence[Scored], *, progress: float) -> None:
        """Learn from a chunk, in the order of the text; `progress` is how much of the text it ends, from 0 to 1."""
        ...


class RowLearner(Protocol):
    """A predictor that learns each row by itself: rows are documents, and never influence one another."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens in the vocabulary."""
        ...

    @property
    def context(self) -> int:
        """Most input tokens in one window."""
        ...

    def begin(self, rows: int) -> None:
        """Forget all that rows have learned, and start so many."""
        ...

    def nats(self, inputs: Int64[np.ndarray, "B T"], targets: Int64[np.ndarray, "B S"]) -> Float64[np.ndarray, "B S"]:
        """Score a window of each row, as `Predictor.nats` does, with what each row has learned so far."""
        ...

    def observe(self, scored: Sequence[Scored]) -> None:
        """Learn from what was scored of each row by the last call of `nats`: of padded rows, less than was computed."""
        ...

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these, given as ascending positions in the current batch."""
        ...
