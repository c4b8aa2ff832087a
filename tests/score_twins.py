"""Ten-line models whose Predictor and Stepper are twins, and a tokenizer of single bytes."""

import numpy as np

from nutshell.score.online import WindowReader
from nutshell.score.prove import CoderHere
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan

BOS = 256
VOCAB_SIZE = 257


class ByteTokenizer:
    """A token is a byte; 256 is BOS."""

    bos_id = BOS
    vocab_size = VOCAB_SIZE

    def pieces(self, tokens):
        return [bytes([token]) for token in tokens.tolist()]


def documents_of(*texts: bytes) -> Documents:
    tokens = [np.frombuffer(text, np.uint8).astype(np.uint16) for text in texts]
    return Documents.of_text(tokens, ByteTokenizer(), sum(map(len, texts)))


def coder_of(model) -> CoderHere:
    """Code with the windows that a layout's strategy says, always by the same model."""

    def predictor_of(layout):
        plan = WindowPlan(context=layout.strategy.context, stride=layout.strategy.stride)
        return WindowReader(model, plan, layout.bos_id)

    return CoderHere(predictor_of)


class Twin:
    """Predictor and Stepper over `row(inputs so far) -> log-probabilities`, the one thing a subclass says."""

    vocab_size = VOCAB_SIZE

    def __init__(self, context: int = 16) -> None:
        self.context = context
        self.rows: list[list[int]] = []
        self.fed: list[tuple[int, int]] = []

    def row(self, seen: list[int]) -> np.ndarray:
        raise NotImplementedError

    def log_probs(self, inputs):
        assert inputs.shape[1] <= self.context
        return np.array([[self.row(row[: t + 1].tolist()) for t in range(len(row))] for row in inputs])

    def nats(self, inputs, targets):
        tail = self.log_probs(inputs)[:, -targets.shape[1] :].astype(np.float64)
        return -np.take_along_axis(tail, targets[..., None], axis=2)[..., 0]

    def begin(self, batch):
        self.rows = [[] for _ in range(batch)]

    def feed(self, tokens):
        self.fed.append(tokens.shape)
        for row, new in zip(self.rows, tokens.tolist(), strict=True):
            row.extend(new)
            assert len(row) <= self.context
        return np.array([self.row(row) for row in self.rows], dtype=np.float32)

    def keep(self, rows):
        self.rows = [self.rows[row] for row in rows]


class Uniform(Twin):
    def row(self, seen):
        return np.full(VOCAB_SIZE, -np.log(VOCAB_SIZE))


class Unigram(Twin):
    weights = 1.0 / (1.0 + np.arange(VOCAB_SIZE))

    def row(self, seen):
        return np.log(self.weights / self.weights.sum())


class Order2(Twin):
    """Counts what followed the last two tokens earlier in the window: every prediction depends on the whole window."""

    def row(self, seen):
        counts = np.full(VOCAB_SIZE, 0.01)
        for i in range(2, len(seen)):
            if seen[i - 2 : i] == seen[-2:]:
                counts[seen[i]] += 1
        counts[seen[-1]] += 0.5
        return np.log(counts / counts.sum())
