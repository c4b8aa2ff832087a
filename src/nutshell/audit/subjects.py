"""What can be audited: something that scores a whole stream, or something that predicts token by token.

A stream is tokens that begin with BOS; its targets are all tokens but the first, and BOS ends a document.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float64, Int64

from nutshell.errors import PredictorError, UsageError
from nutshell.score.pipe import PipePredictor
from nutshell.score.predictor import OnlinePredictor

Stream = Int64[np.ndarray, " T"]


class Reported(NamedTuple):
    """What a subject says of a stream: `-log p` of every target, in order, and the bytes that they stand for."""

    nats: Float64[np.ndarray, " N"]
    num_bytes: int | None = None


class Subject(Protocol):
    """Something that scores a stream as a whole. Every call begins with nothing known."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def independent(self) -> bool:
        """Whether it says that documents do not influence one another."""
        ...

    def score(self, tokens: Stream) -> Reported:
        """Score all targets of a stream."""
        ...


class Online:
    """A subject that predicts token by token, so that nobody can say that it looked ahead.

    Args:
        opened: Starts a predictor that knows nothing yet, for a stream of so many targets.
        vocab_size: Number of tokens.
        bos_id: The token that ends a document.
        independent: Whether it says that documents do not influence one another.
    """

    def __init__(
        self,
        opened: Callable[[int], AbstractContextManager[OnlinePredictor]],
        *,
        vocab_size: int,
        bos_id: int,
        independent: bool,
    ) -> None:
        self._opened = opened
        self.vocab_size, self.bos_id, self.independent = vocab_size, bos_id, independent

    def score(self, tokens: Stream) -> Reported:
        """Play a stream to a fresh predictor."""
        nats = np.array([-log_probs[target] for log_probs, target in self.play(tokens)], dtype=np.float64)
        return Reported(nats)

    def play(self, tokens: Stream) -> Iterator[tuple[Float64[np.ndarray, " V"], int]]:
        """Ask for every target of a stream before telling it; yield what was answered, and the target."""
        with self._opened(len(tokens) - 1) as predictor:
            for before, target in zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True):
                if before == self.bos_id:
                    predictor.begin(1)
                log_probs = np.asarray(predictor.predict(), dtype=np.float64)[0]
                yield log_probs, target
                predictor.tell(np.array([target]))


def piped(command: str, *, timeout: float) -> Online:
    """Audit a program that speaks the predictor protocol.

    Raises:
        PredictorError: it does not say hello.
    """
    with PipePredictor(command, timeout=timeout) as predictor:
        hello = predictor.hello
    return Online(
        lambda _: PipePredictor(command, timeout=timeout),
        vocab_size=hello.vocab_size,
        bos_id=hello.bos_id,
        independent=hello.independent,
    )


class Batch:
    """A function that is handed whole streams.

    Args:
        function: Gives the nats of all targets; or these and the number of bytes.
        vocab_size: Number of tokens.
        bos_id: The token that ends a document.
        independent: Whether it is said that documents do not influence one another.
    """

    def __init__(
        self, function: Callable[[Stream], Any], *, vocab_size: int, bos_id: int, independent: bool = False
    ) -> None:
        self._function = function
        self.vocab_size, self.bos_id, self.independent = vocab_size, bos_id, independent

    def score(self, tokens: Stream) -> Reported:
        """Call the function.

        Raises:
            PredictorError: what it returned are no numbers.
        """
        found = self._function(tokens.copy())
        nats, num_bytes = found if isinstance(found, tuple) else (found, None)
        try:
            return Reported(
                np.asarray(nats, dtype=np.float64).reshape(-1), None if num_bytes is None else int(num_bytes)
            )
        except (TypeError, ValueError) as error:
            raise PredictorError(f"the scorer returned no array of numbers ({error})") from error


def imported(name: str, *, vocab_size: int, bos_id: int) -> Subject:
    """Audit an object of a module that can be imported from here, named `module:object`.

    It is a function of a stream, or a class of online predictors, which says whether documents are `independent`.

    Raises:
        UsageError: there is no such object, or it is neither.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--scorer {name}: cannot find it ({error}); write it as module:object") from error
    finally:
        sys.path.remove("")
    sizes = {"vocab_size": vocab_size, "bos_id": bos_id}
    if hasattr(found, "predict"):
        independent = bool(getattr(found, "independent", False))
        return Online(lambda _: nullcontext(found(**sizes)), independent=independent, **sizes)
    if not callable(found):
        raise UsageError(f"--scorer {name}: neither a function nor a class of predictors")
    return Batch(found, independent=bool(getattr(found, "independent", False)), **sizes)
