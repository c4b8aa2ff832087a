"""Score a text that is read once, at the cost of disjoint windows and with the sight of sliding ones.

The windows are those of `WindowPlan`. What one shares with the next is remembered and not read again, so a prediction
sees what it would in sliding windows of the same stride, at first hand, and more at second: what is remembered was
computed when older tokens were in sight. A stride of the whole context is disjoint windows.
"""

from collections.abc import Iterator
from typing import Any

from nutshell.config.struct import Config
from nutshell.score.chunks import Unit
from nutshell.score.ledger import Score, Strategy
from nutshell.score.means import Means
from nutshell.score.mixtures import NgramConfig
from nutshell.score.predictor import RowLearner
from nutshell.score.rows import GROUP_TARGETS, score_in_rows
from nutshell.score.text import Documents
from nutshell.score.windows import Window, WindowPlan

# Tokens of all rows together: their keys and values in every virtual layer take far more memory than a forward.
MOST_REMEMBERED = 32_768


class RollingPlan(Config, frozen=True):
    """How documents are read side by side, each token once; attributes as of `RowPlan`."""

    sliding: WindowPlan
    rows: int
    group_targets: int = GROUP_TARGETS

    @property
    def context(self) -> int:
        return self.sliding.context

    def step(self, num_targets: int) -> int:
        """Give the targets of a step of a document, which are the same for all."""
        return self.sliding.stride

    def windows(self, num_targets: int) -> Iterator[Window]:
        """Yield the windows of a document; what lies before the first scored target has been read."""
        return self.sliding.windows(num_targets)

    def num_inputs(self, num_targets: int) -> int:
        """Count the inputs that are read: each once."""
        return num_targets


def score_rolling(
    reader: RowLearner,
    documents: Documents,
    plan: WindowPlan,
    *,
    unit: Unit = "document",
    settings: dict[str, Any] | None = None,
    mixture: NgramConfig | None = None,
    means: Means,
) -> Score:
    """Score each document by itself, or all as one stream.

    Args:
        reader: A model that remembers what it reads.
        documents: All of a text, or a sample of it.
        plan: Context and stride. The first window is a call of the model, and each further stride.
        unit: Whether a document begins with nothing remembered.
        settings: What the score will say besides of how it was made.
        mixture: What the model is mixed with.
        means: With what it is scored.

    Raises:
        RecipeError: the plan's context is longer than the model takes.
        DataError: the text was tokenized for another vocabulary.
        LegalityError: the model's values cannot be a score.
        BudgetError: there is not the time for one group of documents, or for the stream.
    """
    rows = max(1, min(means.batch_tokens // plan.stride, MOST_REMEMBERED // plan.context))
    strategy = Strategy.of(plan, unit, kind="rolling", settings=settings)
    return score_in_rows(reader, documents, RollingPlan(plan, rows), strategy, mixture=mixture, means=means)
