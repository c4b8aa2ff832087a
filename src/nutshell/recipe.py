"""A recipe: a complete, named run as one file. Each component receives only its own table; the pipeline sees all."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nutshell.artifact.config import PackConfig
from nutshell.config.catalog import find_recipe
from nutshell.config.digest import digest
from nutshell.config.loader import apply_overrides, decode, read_table, to_toml
from nutshell.config.struct import Config
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.effects import check_effects
from nutshell.optim.config import OptimConfig
from nutshell.score.config import ProveConfig, ScoreConfig
from nutshell.train.config import TrainConfig
from nutshell.train.phases import Phase


class Recipe(Config, frozen=True):
    """What to train, how, and what to do with it; `about` is the recipe's claim. Without `prove`, nothing is proved."""

    about: str
    model: ModelConfig
    train: TrainConfig
    pack: PackConfig
    score: ScoreConfig
    optim: OptimConfig = OptimConfig()
    prove: ProveConfig | None = None

    def __post_init__(self) -> None:
        num_blocks = self.model.dims.num_blocks
        for schedule in self.schedules:
            if schedule.num_blocks > num_blocks:
                raise ValueError(
                    f"train.phases: '{schedule.text}' runs {schedule.num_blocks} blocks, the model has {num_blocks}"
                )
            self.model.check_schedule(schedule, self.final_schedule)
        check_effects(self.model, self.schedules, max(phase.seq_len for phase in self.phases))
        if self.final_schedule.visits not in {schedule.visits for schedule in self.phases[-1].schedules}:
            raise ValueError(
                f"train.phases: the last phase lasts to the end without '{self.final_schedule.text}', which is packed; "
                "add it to its schedules, or end it before 1"
            )
        self._check_phases_differ()
        if self.train.qat:
            self.train.qat.grids(self.pack.rules)
        for penalty in self.train.penalties:
            penalty.check(self.pack.rules)
        if self.score.stride > self.train.seq_len:
            raise ValueError(f"score.stride {self.score.stride} is longer than train.seq_len {self.train.seq_len}")

    def _check_phases_differ(self) -> None:
        """Refuse a phase that computes as the next one does: it would do nothing."""
        for phase, following in pairwise(self.phases):
            if phase._replace(until=following.until) == following:
                raise ValueError(
                    f"train.phases: the phase until {phase.until:g} has no effect: the next runs as it does"
                )

    @property
    def final_schedule(self) -> DepthSchedule:
        """The schedule that is packed and scored."""
        return self.model.depth.parse()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of the training; the last one ends with it."""
        train = self.train
        listed = tuple(
            Phase(
                until=phase.until,
                schedules=tuple(self.model.depth.variant(text) for text in phase.texts) or (self.final_schedule,),
                batch_size=phase.batch_size or train.batch_size,
                seq_len=phase.seq_len or train.seq_len,
                quantized=train.qat is not None and phase.qat is None,
            )
            for phase in train.phases
        )
        lasts_to_the_end = bool(listed) and listed[-1].until == 1.0
        last = Phase(1.0, (self.final_schedule,), train.batch_size, train.seq_len, quantized=train.qat is not None)
        return listed if lasts_to_the_end else (*listed, last)

    @property
    def schedules(self) -> tuple[DepthSchedule, ...]:
        """Every schedule of the run, each once."""
        return tuple(dict.fromkeys(schedule for phase in self.phases for schedule in phase.schedules))


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe as it will run: base merged, overrides applied and recorded."""

    name: str
    recipe: Recipe
    overrides: dict[str, Any]

    @property
    def digest(self) -> str:
        return digest(self.recipe)

    def toml(self) -> str:
        """Write the resolved recipe out, defaults included."""
        return to_toml(self.recipe)


def resolve(name_or_path: str, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe by path, or an installed one by name.

    Raises:
        RecipeError: there is no such recipe, or it does not decode.
    """
    path = find_recipe(name_or_path)
    table, recorded = apply_overrides(read_table(path), overrides)
    return Resolved(path.stem, decode(table, Recipe, where=str(path)), recorded)
