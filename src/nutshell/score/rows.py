"""Score documents side by side, each with a small learner of its own, that begins anew with every document.

A document is read in steps of a few targets. Each step is scored from a window of the document that ends with it, by
the model and what this document has taught so far; it is charged in the ledger; only then the document's learner gets
it. Documents of similar length and of the same step share a batch, and leave it as they end. They never influence one
another, so processes take turns at batches.

Batches are made of documents that follow one another in the text, so that scoring can stop at any of them, and what
learns from all of them (`learn`) has read the text in its order.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count, groupby
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float64

from nutshell.config.struct import Config
from nutshell.errors import LegalityError
from nutshell.score.batches import check_fit, side_by_side
from nutshell.score.chunks import Learn
from nutshell.score.ledger import Score, ScoreLedger, Strategy
from nutshell.score.means import Means
from nutshell.score.mixtures import NgramConfig
from nutshell.score.predictor import RowLearner
from nutshell.score.text import Documents, Track
from nutshell.score.windows import Window

# Targets that a group of consecutive documents has at least; scoring can stop between groups.
GROUP_TARGETS = 131_072


class Plan(Protocol):
    """How documents are read side by side: windows that score each target once, in order, whatever comes later."""

    @property
    def context(self) -> int:
        """Most inputs of a window."""
        ...

    @property
    def rows(self) -> int:
        """Most documents of a batch."""
        ...

    @property
    def group_targets(self) -> int:
        """Targets that a group of consecutive documents has at least; batches are made within it."""
        ...

    def step(self, num_targets: int) -> int:
        """Give the targets of a step of a document; those of equal steps share batches."""
        ...

    def windows(self, num_targets: int) -> Iterator[Window]:
        """Yield the window of each step of a document."""
        ...

    def num_inputs(self, num_targets: int) -> int:
        """Count the inputs that are read for a document: the work."""
        ...


class StepRule(Config, frozen=True):
    """Documents of at most `up_to` targets (None: of any number) are scored and learned from `targets` at a time."""

    targets: int
    up_to: int | None = None

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise ValueError(f"targets {self.targets} must be at least 1")


class RowPlan(Config, frozen=True):
    """How documents are read side by side.

    Attributes:
        context: Most inputs of a window.
        steps: Targets of a step by the length of the document; the first rule that fits holds, the last fits all.
        rows: Most documents of a batch.
        group_targets: Targets that a group of consecutive documents has at least; batches are made within it.
    """

    context: int
    steps: tuple[StepRule, ...]
    rows: int = 64
    group_targets: int = GROUP_TARGETS

    def __post_init__(self) -> None:
        if not self.steps or self.steps[-1].up_to is not None:
            raise ValueError("steps: the last rule must have no up_to: it is for all documents that are left")
        if any(rule.up_to is None for rule in self.steps[:-1]):
            raise ValueError("steps: rules behind one without up_to have no effect")
        if (longest := max(rule.targets for rule in self.steps)) > self.context:
            raise ValueError(f"steps: {longest} targets are more than a window of {self.context}")
        if self.rows < 1 or self.group_targets < 1:
            raise ValueError("rows and group_targets must be at least 1")

    def step(self, num_targets: int) -> int:
        """Give the targets of a step of a document."""
        return next(rule.targets for rule in self.steps if rule.up_to is None or num_targets <= rule.up_to)

    def windows(self, num_targets: int) -> Iterator[Window]:
        """Yield the window of each step of a document; they score each target once, in order."""
        for window in _unbounded(self.step(num_targets), self.context):
            if window.score_from >= num_targets:
                return
            yield window._replace(stop=min(window.stop, num_targets))

    def unbounded(self) -> Iterator[Window]:
        """Yield the windows of a document that has not ended yet, as a decoder meets it.

        Raises:
            LegalityError: the steps go by its length.
        """
        rule, *others = self.steps
        if others:
            raise LegalityError(
                "steps that go by the length of a document: what comes next is then predicted by who knows its end"
            )
        return _unbounded(rule.targets, self.context)

    def num_inputs(self, num_targets: int) -> int:
        """Count the inputs that the windows of a document read, overlaps included."""
        return sum(window.stop - window.start for window in self.windows(num_targets))


def _unbounded(step: int, context: int) -> Iterator[Window]:
    for first in count(0, step):
        yield Window(max(0, first + step - context), first + step, first)


class Phases(NamedTuple):
    """Where the text is cut into parts of about equal length, and what learns from each part when the next begins."""

    number: int
    learn: Learn


def score_in_rows(
    learner: RowLearner,
    documents: Documents,
    plan: Plan,
    strategy: Strategy,
    *,
    phases: Phases | None = None,
    mixture: NgramConfig | None = None,
    means: Means,
) -> Score:
    """Score documents one by one, side by side, or the stream alone, as the strategy's unit says.

    A mixture stands beside the model: nothing learns from it.

    Raises:
        RecipeError: the plan's context is longer than the model takes.
        DataError: the text was tokenized for another vocabulary.
        LegalityError: the model's values cannot be a score.
        BudgetError: there is not the time for one group of documents.
    """
    check_fit(plan.context, learner.context, learner.vocab_size, documents)
    tracks = documents.tracks() if strategy.unit == "document" else [documents.stream()]
    ledger = ScoreLedger(tracks, mixture)
    total = sum(len(track.targets) for track in tracks)
    advance = means.meter(sum(plan.num_inputs(len(track.targets)) for track in tracks))
    done, first_unlearned, phase = 0, 0, 1
    if means.budget:
        means.budget.begin()
    for group in _groups(tracks, plan.group_targets):
        _score_group(learner, ledger, tracks, group, plan, means, advance)
        done += sum(len(tracks[place].targets) for place in group)
        if done == total or not (means.budget is None or means.budget.allows_more(done, total, means.team)):
            break
        if phases and done * phases.number >= phase * total:
            phases.learn(
                [ledger.scored(place, 0, len(tracks[place].targets)) for place in range(first_unlearned, group.stop)],
                done / total,
            )
            first_unlearned = group.stop
            phase = done * phases.number // total + 1
    return ledger.finish(documents, strategy, whole=means.budget is None)


def _groups(tracks: Sequence[Track], least: int) -> Iterator[range]:
    first = targets = 0
    for place, track in enumerate(tracks):
        targets += len(track.targets)
        if targets >= least or place == len(tracks) - 1:
            yield range(first, place + 1)
            first, targets = place + 1, 0


def _score_group(
    learner: RowLearner,
    ledger: ScoreLedger,
    tracks: Sequence[Track],
    group: range,
    plan: Plan,
    means: Means,
    advance: Callable[[int], None],
) -> None:
    """Score the documents of a group, in batches that all processes share; charge all of them here."""
    starts = np.cumsum([0, *(len(tracks[place].targets) for place in group)])
    nats = np.zeros(starts[-1])
    own = {place: nats[start:stop] for place, start, stop in zip(group, starts[:-1], starts[1:], strict=True)}
    done = set()
    for number, batch in enumerate(_batches(tracks, group, plan)):
        if means.is_mine(number):
            for place, first, values in _score_batch(learner, ledger, tracks, batch, plan):
                own[place][first : first + len(values)] = values
            done.update(batch)
        advance(sum(plan.num_inputs(len(tracks[place].targets)) for place in batch))
    # All others hold zeros where one has scored, and adding zero changes nothing.
    for place, values in zip(group, np.split(means.team.add_up(nats), starts[1:-1]), strict=True):
        if place not in done:
            ledger.commit(place, 0, values)


def _batches(tracks: Sequence[Track], group: range, plan: Plan) -> Iterator[list[int]]:
    """Put documents of equal steps together, longest first."""

    def length(place: int) -> int:
        return len(tracks[place].targets)

    def step(place: int) -> int:
        return plan.step(length(place))

    order = sorted(group, key=lambda place: (step(place), -length(place)))
    for _, same in groupby(order, key=step):
        places = list(same)
        for first in range(0, len(places), plan.rows):
            yield places[first : first + plan.rows]


def _score_batch(
    learner: RowLearner, ledger: ScoreLedger, tracks: Sequence[Track], batch: list[int], plan: Plan
) -> Iterator[tuple[int, int, Float64[np.ndarray, " S"]]]:
    """Read a batch of documents, the longest first, step by step; yield the nats of each document and step."""
    learner.begin(len(batch))
    places = batch
    for window in plan.windows(len(tracks[batch[0]].targets)):
        if ended := sum(len(tracks[place].targets) <= window.score_from for place in places):
            places = places[:-ended]
            learner.keep(np.arange(len(places)))
        stops = [min(window.stop, len(tracks[place].targets)) for place in places]
        nats = learner.nats(*side_by_side([tracks[place] for place in places], [window] * len(places)))
        for place, stop, row in zip(places, stops, nats, strict=True):
            values = row[: stop - window.score_from]
            ledger.commit(place, window.score_from, values)
            yield place, window.score_from, values
        if len(tracks[places[0]].targets) > window.stop:  # else nothing is left that a learner could be used for
            learner.observe(
                [ledger.scored(place, window.score_from, stop) for place, stop in zip(places, stops, strict=True)]
            )
