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

from nutshell.errors import NutshellError, PredictorError, UsageError
from nutshell.score.pipe import Hello, PipePredictor
from nutshell.score.predictor import OnlinePredictor

Stream = Int64[np.ndarray, " T"]


class Reported(NamedTuple):
    """What a subject says of a stream: `-log p` of every target, in order; the bytes that they stand for; the score."""

    nats: Float64[np.ndarray, " N"]
    num_bytes: int | None = None
    bpb: float | None = None


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
        rows: Documents that it can read side by side.
    """

    def __init__(
        self,
        opened: Callable[[int], AbstractContextManager[OnlinePredictor]],
        *,
        vocab_size: int,
        bos_id: int,
        independent: bool,
        rows: int = 1,
    ) -> None:
        self._opened, self._rows = opened, rows
        self.vocab_size, self.bos_id, self.independent = vocab_size, bos_id, independent

    def score(self, tokens: Stream) -> Reported:
        """Play a stream to a fresh predictor."""
        nats = np.empty(len(tokens) - 1)
        for places, log_probs in self.play(tokens):
            nats[places] = -log_probs[np.arange(len(places)), tokens[places + 1]]
        return Reported(nats)

    def play(self, tokens: Stream) -> Iterator[tuple[Int64[np.ndarray, " B"], Float64[np.ndarray, "B V"]]]:
        """Ask for every target of a stream before telling it; yield places of targets, and what was answered."""
        targets = tokens[1:]
        starts = np.flatnonzero(tokens[:-1] == self.bos_id)
        stops = np.append(starts[1:], len(targets))
        with self._opened(len(targets)) as predictor:
            for first in range(0, len(starts), self._rows):
                place, stop = starts[first : first + self._rows], stops[first : first + self._rows]
                predictor.begin(len(place))
                while True:
                    yield place, np.asarray(predictor.predict(), dtype=np.float64)
                    predictor.tell(targets[place])
                    place = place + 1
                    going = place < stop
                    if not going.any():
                        break
                    if not going.all():
                        predictor.keep(np.flatnonzero(going))
                        place, stop = place[going], stop[going]


def piped(command: str, *, timeout: float, check: Callable[[Hello], None] = lambda _: None) -> Online:
    """Audit a program that speaks the predictor protocol; `check` may refuse what it says of itself.

    Raises:
        PredictorError: it does not say hello.
    """
    with PipePredictor(command, timeout=timeout) as predictor:
        check(hello := predictor.hello)
    return Online(
        lambda _: PipePredictor(command, timeout=timeout),
        vocab_size=hello.vocab_size,
        bos_id=hello.bos_id,
        independent=hello.independent,
    )


class Batch:
    """A function that is handed whole streams.

    Args:
        function: Gives the nats of all targets; or these and the number of bytes, and maybe the bits per byte.
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
            PredictorError: it failed, or what it returned are no numbers.
        """
        try:
            found = self._function(tokens.copy())
        except NutshellError:
            raise
        except Exception as error:  # whatever somebody else's code may raise
            raise PredictorError(f"the scorer failed: {type(error).__name__}: {error}") from error
        nats, num_bytes, bpb = (*found, None, None)[:3] if isinstance(found, tuple) else (found, None, None)
        try:
            return Reported(
                np.asarray(nats, dtype=np.float64).reshape(-1),
                None if num_bytes is None else int(num_bytes),
                None if bpb is None else float(bpb),
            )
        except (TypeError, ValueError) as error:
            raise PredictorError(f"the scorer returned no array of numbers ({error})") from error


def imported(name: str, *, vocab_size: int, bos_id: int) -> Subject:
    """Audit an object of a module that can be imported from here, named `module:object`.

    It is a function of a stream, the size of the vocabulary and BOS, or a class of online predictors that takes the
    last two; `independent` says of either that documents do not influence one another.

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
    independent = bool(getattr(found, "independent", False))
    return Batch(lambda tokens: found(tokens, vocab_size, bos_id), independent=independent, **sizes)
