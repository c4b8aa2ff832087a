"""Which targets are scored with which context: pure integers.

A sequence has inputs `0..n-1` and targets `0..n-1`; target `t` is predicted from inputs up to and including `t`. A
model sees at most `context` inputs at once. The first window scores everything in it; each later one moves on by
`stride` and scores only its last `stride` targets, so those see at least `context - stride + 1` inputs. With seven
targets, `context=4` and `stride=2`:

    inputs   0 1 2 3 4 5 6
             S S S S            scores 0..3
                 . . S S        sees 2..5, scores 4 and 5
                     . . S      sees 4..6, scores the tail

With `stride == context` the windows are disjoint. The tail is scored, once: the field's published evaluators drop it or
score it again with less and less context.
"""

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from nutshell.config.struct import Config
from nutshell.errors import RecipeError


class Window(NamedTuple):
    """Feed inputs `start..stop`, score targets `score_from..stop`; ends are exclusive."""

    start: int
    stop: int
    score_from: int


class WindowPlan(Config, frozen=True):
    """How a sequence of any length is cut into windows. A `stride` equal to `context` means disjoint windows."""

    context: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.context:
            raise RecipeError(f"stride {self.stride} with context {self.context}: choose 1 <= stride <= context")

    @property
    def kind(self) -> str:
        """Name the plan: `disjoint` or `sliding`."""
        return "disjoint" if self.stride == self.context else "sliding"

    def unbounded(self) -> Iterator[Window]:
        """Yield the windows of a sequence that has not ended yet, as a decoder meets it: each has its full length."""
        yield Window(0, self.context, 0)
        for start in count(self.stride, self.stride):
            stop = start + self.context
            yield Window(start, stop, stop - self.stride)

    def windows(self, num_targets: int) -> Iterator[Window]:
        """Yield the windows of a whole sequence; they score each target exactly once, in order."""
        for window in self.unbounded():
            if window.score_from >= num_targets:
                return
            yield window._replace(stop=min(window.stop, num_targets))

    def num_inputs(self, num_targets: int) -> int:
        """Count the inputs that all windows of a sequence read, overlaps included: the work of scoring it."""
        return sum(window.stop - window.start for window in self.windows(num_targets))
