"""The strategies of scoring by name: what reads the text in which order, and what learns from it on the way.

A strategy is written as its kind and what differs from its defaults: `sliding,stride=64`. The settings found to be good
for a small model are the defaults; docs/scoring-rules.md says what each wins on the bundled text.
"""

import re
from typing import Any

from nutshell.artifact.load import Loaded
from nutshell.config.loader import apply_overrides, decode, to_table
from nutshell.config.struct import Config, Kind, kind_of
from nutshell.errors import RecipeError
from nutshell.predict.predictor import ModelPredictor
from nutshell.predict.sgd import SGDConfig, SGDLearner
from nutshell.ranks import Ranks
from nutshell.score.chunks import CHUNK_TARGETS, Unit, score_in_chunks
from nutshell.score.ledger import Score, Strategy
from nutshell.score.means import Means
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan


class Windowed(Kind, frozen=True, kw_only=True):
    """Base of the strategies that lay windows over a text, document by document or over the stream of all."""

    unit: Unit = "document"

    def described(self, plan: WindowPlan) -> Strategy:
        """Say how a score was made, defaults filled in."""
        settings = {key: value for key, value in to_table(self).items() if key not in _SAID_BY_WINDOWS}
        return Strategy.of(plan, self.unit, kind=kind_of(self), settings=settings)


_SAID_BY_WINDOWS = ("kind", "unit", "stride")


class Disjoint(Windowed, frozen=True, kw_only=True, tag="disjoint"):
    """Windows of the whole context that do not overlap."""

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        plan = WindowPlan(context=loaded.context, stride=loaded.context)
        return score_in_chunks(ModelPredictor(loaded), documents, plan, self.described(plan), means=means)


class Sliding(Windowed, frozen=True, kw_only=True, tag="sliding"):
    """Windows that advance by `stride` targets: the artifact's own unless given."""

    stride: int | None = None

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        plan = WindowPlan(context=loaded.context, stride=self.stride or loaded.stride)
        return score_in_chunks(ModelPredictor(loaded), documents, plan, self.described(plan), means=means)


class ChunkedSGD(Windowed, frozen=True, kw_only=True, tag="chunked_sgd"):
    """Sliding windows, and SGD on all weights from each chunk once it is scored."""

    stride: int | None = None
    chunk_targets: int = CHUNK_TARGETS
    learner: SGDConfig = SGDConfig(lr=0.05)

    def __post_init__(self) -> None:
        if self.chunk_targets < 1:
            raise ValueError(f"chunk_targets {self.chunk_targets} must be at least 1")

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        plan = WindowPlan(context=loaded.context, stride=self.stride or loaded.stride)
        learner = SGDLearner(loaded, self.learner, batch_tokens=means.batch_tokens, ranks=ranks)
        return score_in_chunks(
            learner,
            documents,
            plan,
            self.described(plan),
            chunk_targets=self.chunk_targets,
            learn=learner.observe,
            means=means,
        )


StrategyConfig = Disjoint | Sliding | ChunkedSGD


class _Choice(Config, frozen=True):
    strategy: StrategyConfig


def read_strategy(text: str) -> StrategyConfig:
    """Read a strategy as it is written on the command line.

    Raises:
        RecipeError: there is no such strategy, or a setting is not one of its own.
    """
    kind, *settings = re.split(r",(?=[^\[\]]*(?:\[|$))", text)
    if wrong := [setting for setting in settings if "=" not in setting]:
        raise RecipeError(f"--strategy {text}: '{wrong[0]}' is no setting; write it as in 'sliding,stride=64'")
    alone = {"kind": kind.strip()}
    table, _ = apply_overrides(to_table(_decode(alone, text)), settings)
    return _decode(table | alone, text)


def _decode(table: dict[str, Any], text: str) -> StrategyConfig:
    return decode({"strategy": table}, _Choice, where=f"--strategy {text}").strategy
