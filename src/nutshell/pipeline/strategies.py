"""The strategies of scoring by name: what reads the text in which order, and what learns from it on the way.

A strategy is written as its kind and what differs from its defaults: `sliding,stride=64`. The settings found to be good
for a small model are the defaults; docs/scoring-rules.md says what each wins on the bundled text.
"""

from dataclasses import replace
from typing import Any

from nutshell.artifact.load import Loaded
from nutshell.config.loader import apply_overrides, decode, to_table
from nutshell.config.struct import Config, Kind, kind_of
from nutshell.errors import DataError, LegalityError, RecipeError
from nutshell.predict.adapters import AdaptedStepper, AdapterConfig, DocumentAdapters
from nutshell.predict.predictor import ModelPredictor, ModelStepper, Positions
from nutshell.predict.rolling import RollingReader
from nutshell.predict.sgd import SGDConfig, SGDLearner
from nutshell.ranks import ALONE, Ranks
from nutshell.score.chunks import Unit, score_in_chunks
from nutshell.score.ledger import Score, Strategy
from nutshell.score.means import BATCH_TOKENS, Means
from nutshell.score.mixtures import NgramConfig
from nutshell.score.online import LearningByRow, LearningFromChunks, MixedWithCounts, RollingWindows, WindowReader
from nutshell.score.predictor import OnlinePredictor
from nutshell.score.rolling import score_rolling
from nutshell.score.rows import GROUP_TARGETS, Phases, RowPlan, StepRule, score_in_rows
from nutshell.score.text import Documents, Track
from nutshell.score.windows import WindowPlan


class StrategyKind(Kind, frozen=True, kw_only=True):
    """Base of all strategies.

    `mixture` mixes what the model says with counts of what followed the same tokens before.
    """

    mixture: NgramConfig | None = None

    def online(self, loaded: Loaded, total: int) -> OnlinePredictor:
        """Make what predicts a text of `total` targets token by token, as this strategy scores it.

        Raises:
            LegalityError: no decoder can follow it.
        """
        model, bos_id = self._online(loaded, total), loaded.tokenizer.bos_id
        return model if self.mixture is None else MixedWithCounts(model, self.mixture, bos_id)

    def _online(self, loaded: Loaded, total: int) -> OnlinePredictor:
        raise NotImplementedError


class Windowed(StrategyKind, frozen=True, kw_only=True):
    """Base of the strategies that lay windows over a text, document by document or over the stream of all.

    `context` is the trained one unless given; `positions` says what becomes of rotary positions beyond it.
    """

    unit: Unit = "document"
    context: int | None = None
    positions: Positions = "rescaled"

    def plan(self, loaded: Loaded, stride: int | None) -> WindowPlan:
        """Lay out windows; the stride is the artifact's own unless given."""
        context = self.context or loaded.context
        return WindowPlan(context=context, stride=min(loaded.stride, context) if stride is None else stride)

    def described(self, plan: WindowPlan) -> Strategy:
        """Say how a score was made, defaults filled in."""
        return Strategy.of(plan, self.unit, kind=kind_of(self), settings=settings_of(self))

    def stepper(self, loaded: Loaded) -> ModelStepper:
        """Make what reads a window token by token.

        Raises:
            LegalityError: windows cross documents, so that none can be decoded by itself.
        """
        if self.unit == "stream":
            raise LegalityError("a score over the stream cannot be proved: only one by document can")
        return ModelStepper(loaded, context=self.context, positions=self.positions)


def settings_of(strategy: Kind) -> dict[str, Any]:
    """Give what a strategy was told, defaults included, but for what its windows say."""
    return {key: value for key, value in to_table(strategy).items() if key not in _SAID_BY_WINDOWS}


_SAID_BY_WINDOWS = ("kind", "unit", "context", "stride")


def _tracks(documents: Documents, unit: Unit) -> list[Track]:
    return documents.tracks() if unit == "document" else [documents.stream()]


class Disjoint(Windowed, frozen=True, kw_only=True, tag="disjoint"):
    """Windows that do not overlap."""

    def num_inputs(self, loaded: Loaded, documents: Documents) -> int:
        """Count the tokens that are read: each once."""
        return sum(len(track.targets) for track in _tracks(documents, self.unit))

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        predictor = ModelPredictor(loaded, context=self.context, positions=self.positions)
        plan = self.plan(loaded, predictor.context)
        return score_in_chunks(predictor, documents, plan, self.described(plan), mixture=self.mixture, means=means)

    def _online(self, loaded: Loaded, total: int) -> OnlinePredictor:
        stepper = self.stepper(loaded)
        return WindowReader(stepper, self.plan(loaded, stepper.context), loaded.tokenizer.bos_id)


class Sliding(Windowed, frozen=True, kw_only=True, tag="sliding"):
    """Windows that advance by `stride` targets: the artifact's own unless given."""

    stride: int | None = None

    def num_inputs(self, loaded: Loaded, documents: Documents) -> int:
        """Count the tokens that are read, overlaps included: the work."""
        plan, tracks = self.plan(loaded, self.stride), _tracks(documents, self.unit)
        return sum(plan.num_inputs(len(track.targets)) for track in tracks)

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        predictor = ModelPredictor(loaded, context=self.context, positions=self.positions)
        plan = self.plan(loaded, self.stride)
        return score_in_chunks(predictor, documents, plan, self.described(plan), mixture=self.mixture, means=means)

    def _online(self, loaded: Loaded, total: int) -> OnlinePredictor:
        return WindowReader(self.stepper(loaded), self.plan(loaded, self.stride), loaded.tokenizer.bos_id)


class Rolling(Windowed, frozen=True, kw_only=True, tag="rolling"):
    """Each token is read once; keys and values of the last ones stay in sight."""

    stride: int | None = None

    def num_inputs(self, loaded: Loaded, documents: Documents) -> int:
        """Count the tokens that are read: each once."""
        return sum(len(track.targets) for track in _tracks(documents, self.unit))

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        reader = RollingReader(loaded, context=self.context, positions=self.positions, batch_tokens=means.batch_tokens)
        return score_rolling(
            reader,
            documents,
            self.plan(loaded, self.stride),
            unit=self.unit,
            settings=settings_of(self),
            mixture=self.mixture,
            means=means,
        )

    def _online(self, loaded: Loaded, total: int) -> OnlinePredictor:
        return RollingWindows(self.stepper(loaded), self.plan(loaded, self.stride), loaded.tokenizer.bos_id)


class ChunkedSGD(Windowed, frozen=True, kw_only=True, tag="chunked_sgd"):
    """Sliding windows, and SGD on all weights from each chunk once it is scored."""

    stride: int | None = None
    chunk_targets: int = 512
    learner: SGDConfig = SGDConfig(lr=0.05, momentum=0.0, epochs=1)

    def __post_init__(self) -> None:
        if self.chunk_targets < 1:
            raise ValueError(f"chunk_targets {self.chunk_targets} must be at least 1")

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        plan = self.plan(loaded, self.stride)
        learner = self._learner(loaded, means.batch_tokens, ranks)
        return score_in_chunks(
            learner,
            documents,
            plan,
            self.described(plan),
            chunk_targets=self.chunk_targets,
            learn=learner.observe,
            mixture=self.mixture,
            means=means,
        )

    def _online(self, loaded: Loaded, total: int) -> OnlinePredictor:
        learner = self._learner(loaded, BATCH_TOKENS, ALONE)
        return LearningFromChunks(
            self.stepper(replace(loaded, model=learner.model)),
            self.plan(loaded, self.stride),
            loaded.tokenizer.bos_id,
            learner.observe,
            chunk_targets=self.chunk_targets,
            total=total,
        )

    def _learner(self, loaded: Loaded, batch_tokens: int, ranks: Ranks) -> SGDLearner:
        return SGDLearner(
            loaded,
            self.learner,
            context=self.context,
            positions=self.positions,
            batch_tokens=batch_tokens,
            ranks=ranks,
        )


class Phased(Config, frozen=True, kw_only=True):
    """The text in `number` parts: between two of them the model learns by SGD from the part that was scored."""

    number: int
    learner: SGDConfig

    def __post_init__(self) -> None:
        if self.number < 2:
            raise ValueError(f"number {self.number} must be at least 2: nothing learns from the last part")


class AdaptedDocuments(StrategyKind, frozen=True, kw_only=True, tag="document_adapters"):
    """Each document learns low-rank corrections of its own, a step for every few targets once they are scored."""

    steps: tuple[StepRule, ...] = (StepRule(targets=32),)
    rows: int = 64
    group_targets: int = GROUP_TARGETS
    learner: AdapterConfig = AdapterConfig()
    phases: Phased | None = None

    def score(self, loaded: Loaded, documents: Documents, means: Means, ranks: Ranks) -> Score:
        if not documents.bounded:
            raise DataError(
                "document_adapters: no BOS in this text says where documents begin; score it by chunked_sgd or sliding"
            )
        if self.learner.keep_a and ranks.size > 1:
            raise RecipeError("keep_a carries what one batch learned to the next: score on one process")
        plan = self._plan(loaded)
        windows = WindowPlan(context=loaded.context, stride=self.steps[-1].targets)
        strategy = Strategy.of(windows, "document", kind=kind_of(self), settings=settings_of(self))
        if self.phases is None:
            learner = DocumentAdapters(loaded, self.learner)
            return score_in_rows(learner, documents, plan, strategy, mixture=self.mixture, means=means)
        whole = SGDLearner(loaded, self.phases.learner, batch_tokens=means.batch_tokens, ranks=ranks)
        learner = DocumentAdapters(whole, self.learner)
        phases = Phases(self.phases.number, whole.observe)
        return score_in_rows(learner, documents, plan, strategy, phases=phases, mixture=self.mixture, means=means)

    def _online(self, loaded: Loaded, total: int) -> OnlinePredictor:
        if self.phases is not None or self.learner.keep_a:
            raise LegalityError(
                "document_adapters with phases or keep_a cannot be proved: a decoder that does not know how long "
                "documents are cannot put them into the same batches"
            )
        learner = DocumentAdapters(loaded, self.learner)
        stepper = AdaptedStepper(loaded, learner)
        return LearningByRow(stepper, self._plan(loaded), loaded.tokenizer.bos_id, learner)

    def _plan(self, loaded: Loaded) -> RowPlan:
        return RowPlan(context=loaded.context, steps=self.steps, rows=self.rows, group_targets=self.group_targets)


def own_strategy(loaded: Loaded, *, stride: int | None = None) -> Disjoint | Sliding | Rolling:
    """Give the strategy that an artifact was made to be scored by; another stride may be asked for."""
    if (loaded.stride if stride is None else stride) == loaded.context:
        return Disjoint()
    return Rolling(stride=stride) if loaded.windows == "rolling" else Sliding(stride=stride)


StrategyConfig = Disjoint | Sliding | Rolling | ChunkedSGD | AdaptedDocuments


def as_scored(strategy: Strategy) -> StrategyConfig:
    """Give the strategy by which a score was made.

    Raises:
        RecipeError: what the score says of it is no strategy.
    """
    if strategy.kind == "disjoint" and strategy.stride != strategy.context:
        raise RecipeError(f"disjoint windows of {strategy.context} tokens cannot have stride {strategy.stride}")
    table: dict[str, Any] = {"kind": strategy.kind, **strategy.settings}
    if strategy.kind != "document_adapters":
        table |= {"unit": strategy.unit, "context": strategy.context}
        table |= {} if strategy.kind == "disjoint" else {"stride": strategy.stride}
    return _decode(table, "of the score")


class _Choice(Config, frozen=True):
    strategy: StrategyConfig


def read_strategy(text: str) -> StrategyConfig:
    """Read a strategy as it is written on the command line.

    Raises:
        RecipeError: there is no such strategy, or a setting is not one of its own.
    """
    kind, *settings = _split(text)
    if wrong := [setting for setting in settings if "=" not in setting]:
        raise RecipeError(f"--strategy {text}: '{wrong[0]}' is no setting; write it as in 'sliding,stride=64'")
    alone = {"kind": kind.strip()}
    table, _ = apply_overrides(to_table(_decode(alone, text)), settings)
    return _decode(table | alone, text)


def _split(text: str) -> list[str]:
    """Split at the commas that stand in no list and no table."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _decode(table: dict[str, Any], text: str) -> StrategyConfig:
    return decode({"strategy": table}, _Choice, where=f"--strategy {text}").strategy
