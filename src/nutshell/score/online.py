"""Strategies of scoring as a decoder meets them: one token at a time, over a text that is not known yet.

Each is the same computation as its parallel twin (`chunks.py`, `rows.py`, `rolling.py`), in the order that a decoder
is bound to. All lay windows over each document; they differ in what happens as a window begins. The windows of a
document do not depend on its length, so nobody needs to know where it ends.
"""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from nutshell.score.chunks import Learn, last_chunk
from nutshell.score.mixtures import Ngram, NgramConfig
from nutshell.score.predictor import OnlinePredictor, RollingStepper, RowLearner, Scored, Stepper
from nutshell.score.windows import Window


class Endless(Protocol):
    """Windows over a document that has not ended yet."""

    @property
    def context(self) -> int:
        """Most inputs of a window."""
        ...

    def unbounded(self) -> Iterator[Window]:
        """Yield the windows, each of its full length."""
        ...


class WindowReader:
    """A model that does not change: each window is begun anew, with the tokens that it shares with the one before.

    Args:
        stepper: The model; all that it is asked is one window of one batch at a time.
        plan: Context and stride.
        bos_id: The token that opens a document.
    """

    in_order = False

    def __init__(self, stepper: Stepper, plan: Endless, bos_id: int) -> None:
        self._stepper, self._plan, self._bos_id = stepper, plan, bos_id
        self.vocab_size = stepper.vocab_size
        self._windows = plan.unbounded()
        self._position = 0  # of the newest input

    def begin(self, rows: int) -> None:
        """Start so many documents."""
        self._windows = self._plan.unbounded()
        self._window = Window(0, 0, 0)  # none yet
        self._position = 0
        opening = np.full(rows, self._bos_id, dtype=np.int64)
        self._newest = deque([opening], maxlen=self._plan.context + 1)

    def predict(self) -> Float[np.ndarray, "B V"]:
        """Feed what was told last, or the beginning of a new window; return what comes next."""
        if self._position < self._window.stop:
            return self._stepper.feed(self._last(1))
        before, self._window = self._window, next(self._windows)
        return self._stepper.feed(self._enter(self._window, before))

    def tell(self, tokens: Int64[np.ndarray, " B"]) -> None:
        """Remember what came."""
        self._newest.append(tokens)
        self._position += 1

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these."""
        self._stepper.keep(rows)
        self._newest = deque((tokens[rows] for tokens in self._newest), maxlen=self._newest.maxlen)

    def _enter(self, window: Window, before: Window) -> Int64[np.ndarray, "B T"]:
        """Get the model ready for a window that follows another; give what it is to read before the first target."""
        self._stepper.begin(len(self._newest[-1]))
        return self._last(window.score_from - window.start + 1)

    def _last(self, number: int) -> Int64[np.ndarray, "B T"]:
        """Give the newest inputs of every row."""
        first = len(self._newest) - number
        return np.stack([self._newest[first + place] for place in range(number)], axis=1)


class RollingWindows(WindowReader):
    """A model that does not change and reads each token once: what windows share, it remembers."""

    def __init__(self, stepper: RollingStepper, plan: Endless, bos_id: int) -> None:
        self._rolling = stepper
        super().__init__(stepper, plan, bos_id)

    def _enter(self, window: Window, before: Window) -> Int64[np.ndarray, "B T"]:
        if not before.stop:
            return super()._enter(window, before)
        self._rolling.forget_all_but(window.score_from - window.start)
        return self._last(1)


class LearningFromChunks(WindowReader):
    """A model that learns between the chunks of a text, as `score_in_chunks` lets it.

    Args:
        stepper: Reads with the weights as they are.
        plan: Context and stride.
        bos_id: The token that opens a document.
        learn: Changes the weights.
        chunk_targets: Targets of a chunk.
        total: Targets of all documents, which the learner's rate may follow.
    """

    in_order = True

    def __init__(
        self, stepper: Stepper, plan: Endless, bos_id: int, learn: Learn, *, chunk_targets: int, total: int
    ) -> None:
        self._learn, self._chunk_targets = learn, chunk_targets
        self._last_chunk = last_chunk(total, chunk_targets)
        self._chunk = self._before = 0
        self._stretches: list[list[np.ndarray]] = []
        super().__init__(stepper, plan, bos_id)

    def begin(self, rows: int) -> None:
        assert rows == 1, "what learns from a text reads its documents one after the other"
        self._before += self._position
        super().begin(rows)
        self._stretches.append([self._newest[0]])

    def tell(self, tokens: Int64[np.ndarray, " B"]) -> None:
        super().tell(tokens)
        self._stretches[-1].append(tokens)

    def _enter(self, window: Window, before: Window) -> Int64[np.ndarray, "B T"]:
        chunk = (self._before + window.score_from) // self._chunk_targets
        if chunk > self._chunk:
            rows = [np.concatenate(tokens) for tokens in self._stretches]
            self._learn([Scored(row[:-1], row[1:]) for row in rows if len(row) > 1], self._chunk / self._last_chunk)
            self._chunk, self._stretches = chunk, [[self._newest[-1]]]
        return super()._enter(window, before)


class LearningByRow(WindowReader):
    """Documents that each teach a small learner of their own, as `score_in_rows` lets them.

    Args:
        stepper: Reads with what each row has learned so far.
        plan: Windows; what one has scored is learned from before the next begins.
        bos_id: The token that opens a document.
        learner: What the stepper reads with.
    """

    def __init__(self, stepper: Stepper, plan: Endless, bos_id: int, learner: RowLearner) -> None:
        self._learner = learner
        super().__init__(stepper, plan, bos_id)

    def begin(self, rows: int) -> None:
        self._learner.begin(rows)
        super().begin(rows)

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        self._learner.keep(rows)
        super().keep(rows)

    def _enter(self, window: Window, before: Window) -> Int64[np.ndarray, "B T"]:
        if scored := before.stop - before.score_from:
            tokens = self._last(before.stop - before.start + 1)
            inputs, targets = tokens[:, :-1], tokens[:, -scored:]
            self._learner.nats(inputs, targets)
            self._learner.observe([Scored(*row) for row in zip(inputs[:, -scored:], targets, strict=True)])
        return super()._enter(window, before)


class MixedWithCounts:
    """Any of them, mixed with counts of what followed the same tokens before, as the ledger mixes a score."""

    def __init__(self, model: OnlinePredictor, config: NgramConfig, bos_id: int) -> None:
        self._model, self._config, self._bos_id = model, config, bos_id
        self.vocab_size = model.vocab_size
        self.in_order = model.in_order or config.scope == "text"
        self._ngrams: list[Ngram] = []

    def begin(self, rows: int) -> None:
        """Start so many documents; counts of the text go on, those of a document begin anew."""
        self._model.begin(rows)
        if self._config.scope == "document" or not self._ngrams:
            self._ngrams = [Ngram(self._config, self.vocab_size) for _ in range(rows)]
        for ngram in self._ngrams:
            ngram.begin()
        self._inputs = np.full(rows, self._bos_id, dtype=np.int64)

    def predict(self) -> Float64[np.ndarray, "B V"]:
        """Mix what the model says with each row's counts."""
        self._log_probs = self._model.predict().astype(np.float64)
        rows = zip(self._ngrams, self._inputs.tolist(), self._log_probs, strict=True)
        return np.stack([ngram.distribution(token, log_probs) for ngram, token, log_probs in rows])

    def tell(self, tokens: Int64[np.ndarray, " B"]) -> None:
        """Count what came, now that it is charged."""
        self._model.tell(tokens)
        for row, ngram in enumerate(self._ngrams):
            target = tokens[row : row + 1]
            ngram.mix(self._inputs[row : row + 1], target, -self._log_probs[row, target])
        self._inputs = tokens

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these."""
        self._model.keep(rows)
        self._ngrams = [self._ngrams[row] for row in rows]
        self._inputs = self._inputs[rows]
