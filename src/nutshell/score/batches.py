"""Windows to calls of the model: those that share the offset of their first scored target share batches.

Windows of different documents share batches, padded on the right. The model is causal, so padding cannot reach a real
position. The scored positions of a batch are the last columns, and the model is asked for those only.

Batches are a function of the windows alone. Processes take turns at them, so a nat does not depend on how many there
are.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64

from nutshell.errors import DataError, RecipeError
from nutshell.score.means import Means
from nutshell.score.predictor import Predictor
from nutshell.score.text import Documents, Track
from nutshell.score.windows import Window


class Job(NamedTuple):
    """A window of a track."""

    track: int
    window: Window

    @property
    def offset(self) -> int:
        """Inputs before the one that the first scored target follows."""
        return self.window.score_from - self.window.start

    @property
    def num_inputs(self) -> int:
        return self.window.stop - self.window.start

    @property
    def num_targets(self) -> int:
        return self.window.stop - self.window.score_from


def check_fit(context: int, model_context: int, vocab_size: int, documents: Documents) -> None:
    """Refuse what cannot be scored.

    Raises:
        RecipeError: the context is longer than the model takes.
        DataError: the text was tokenized for another vocabulary.
    """
    if context > model_context:
        raise RecipeError(f"scoring context {context} is longer than the model's {model_context}: lower it")
    if documents.tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"the text has a vocabulary of {documents.tokenizer.vocab_size} tokens, the model one of {vocab_size}: "
            "tokenize the text with the model's tokenizer"
        )


def nats_of(
    predictor: Predictor,
    tracks: Sequence[Track],
    jobs: Sequence[Job],
    means: Means,
    advance: Callable[[int], None],
) -> list[Float64[np.ndarray, " S"]]:
    """Score windows, in batches that all processes share; give the nats of each job's targets to all of them.

    `advance` is told of the inputs of each batch that is done, here or elsewhere.
    """
    stops = np.cumsum([job.num_targets for job in jobs])
    nats = np.zeros(stops[-1])
    parts = np.split(nats, stops[:-1])
    for number, batch in enumerate(_batches(jobs, means.batch_tokens)):
        if means.is_mine(number):
            for place, row in zip(batch, _rows(predictor, tracks, [jobs[place] for place in batch]), strict=True):
                parts[place][:] = row
        advance(sum(jobs[place].num_inputs for place in batch))
    # All others hold zeros where one has scored, and adding zero changes nothing.
    return np.split(means.team.add_up(nats), stops[:-1])


def _batches(jobs: Sequence[Job], batch_tokens: int) -> Iterator[list[int]]:
    """Group the places of jobs of equal offset, longest first, so that a batch wastes little on padding."""
    order = sorted(range(len(jobs)), key=lambda place: (jobs[place].offset, -jobs[place].num_inputs))
    for _, group in groupby(order, key=lambda place: jobs[place].offset):
        places = list(group)
        first = 0
        while first < len(places):
            rows = max(1, batch_tokens // jobs[places[first]].num_inputs)
            yield places[first : first + rows]
            first += rows


def _rows(predictor: Predictor, tracks: Sequence[Track], batch: list[Job]) -> Iterator[Float64[np.ndarray, " S"]]:
    """Score a batch of windows of equal offset, the longest first; yield the nats that each window scores."""
    inputs, targets = side_by_side([tracks[job.track] for job in batch], [job.window for job in batch])
    nats = predictor.nats(inputs, targets)
    assert nats.shape == targets.shape, f"predictor returned {nats.shape} for targets {targets.shape}"
    for row, job in enumerate(batch):
        yield nats[row, : job.num_targets]


def side_by_side(
    tracks: Sequence[Track], windows: Sequence[Window]
) -> tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B S"]]:
    """Lay a window of each track beside the others, padded on the right: its inputs, and the targets that it scores."""
    pairs = list(zip(tracks, windows, strict=True))
    inputs = _padded([track.inputs[window.start : window.stop] for track, window in pairs])
    return inputs, _padded([track.targets[window.score_from : window.stop] for track, window in pairs])


def _padded(rows: Sequence[Int[np.ndarray, " T"]]) -> Int64[np.ndarray, "B T"]:
    together = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)  # any token will do as padding
    for own, row in zip(together, rows, strict=True):
        own[: len(row)] = row
    return together
