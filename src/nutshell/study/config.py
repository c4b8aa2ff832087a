"""What a study file says: a base recipe, arms as what they change in it, seeds, budgets, and how to decide.

about = "Does a third block in the loop pay?"
base = "sp8192-loop36-cpu"
seeds = [0, 1, 2]
budgets = [{ steps = 600 }, { seconds = 60.0 }]
measures = ["trained", "disjoint"]

[decision]
metric = "disjoint"
margin = 0.002

[arms.loop35]
hypothesis = "two looped blocks do as well"
set.model.depth.schedule = "0 (1-2)x3 3-5"
"""

import re
from typing import Annotated, Any, Literal

import msgspec

from nutshell.config.struct import Config
from nutshell.train.config import BudgetConfig

Table = dict[str, Any]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]

BASELINE = "base"
"""The arm that changes nothing; every study has it, and arms are compared with it unless they say with which."""

TRAINED, DISJOINT, BYTES, VISITS = "trained", "disjoint", "bytes", "visits"
"""Measures by name: the weights before packing, by disjoint windows; the artifact, by the strategy of that name; its
size; the relative error of the stream that packing makes, after each visit (the last stands for all)."""

# Of arms and sizes: they become names of folders, and parts of one another.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*")


class Delta(Config, frozen=True):
    """What is changed in a recipe.

    Attributes:
        set: A table that is merged over the recipe's, key by key; lists replace.
        drop: Dotted keys that are left out: an absent table is an absent technique.
    """

    set: Table = msgspec.field(default_factory=dict)
    drop: tuple[str, ...] = ()


class ArmConfig(Delta, frozen=True):
    """One arm.

    Attributes:
        hypothesis: What its author expects, in words.
        base: Another recipe than the study's.
        against: The arm that it is compared with.
        published: Its published difference from that arm, in the metric's unit; only the sign is held against ours.
    """

    hypothesis: str = ""
    base: str | None = None
    against: str | None = None
    published: float | None = None


class GridConfig(Config, frozen=True, kw_only=True):
    """Arms for each combination of one level of every axis, named `axis=level` and joined by `+`."""

    axes: dict[str, dict[str, Delta]]
    against: str | None = None

    def __post_init__(self) -> None:
        if not self.axes or not all(self.axes.values()):
            raise ValueError("a grid needs an axis, and each axis a level")


class SizeConfig(Delta, frozen=True, kw_only=True):
    """A size at which every arm runs: what it changes in the recipe, before the arms do."""

    name: str


class DecisionConfig(Config, frozen=True):
    """How a study decides.

    Attributes:
        metric: The measure that verdicts are about.
        margin: Differences that do not matter, in bits per byte (bytes, if the metric is `bytes`).
        alpha: Probability that any verdict of the study on its metric is false.
        power: Wanted probability of a verdict, for counting the seeds that are still needed.
    """

    metric: str = DISJOINT
    margin: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    alpha: Share = 0.05
    power: Share = 0.8


class SequentialConfig(Config, frozen=True, kw_only=True):
    """Looks at growing numbers of seeds: an arm that is decided or hopeless stops, the others get more.

    Attributes:
        looks: Numbers of seeds at which to look; the last is the most that an arm gets.
        hopeless: An arm stops if, were its difference the one seen so far, the last look would decide with less than
            this probability.
    """

    looks: tuple[AtLeastOne, ...]
    hopeless: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05

    def __post_init__(self) -> None:
        if list(self.looks) != sorted(set(self.looks)) or len(self.looks) < 2 or self.looks[0] < 2:
            raise ValueError(f"looks must be two or more rising numbers of seeds, from 2, got {list(self.looks)}")


class LimitsConfig(Config, frozen=True):
    """What a trial may take before it is stopped, and what it is given.

    Attributes:
        minutes: Wall clock.
        memory_gb: Of its processes together, in 10^9 bytes.
        threads: Of its arithmetic; as many trials run at once as the processors have room for.
    """

    minutes: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    memory_gb: Annotated[float, msgspec.Meta(gt=0)] | None = None
    threads: AtLeastOne | None = None


class StudyConfig(Config, frozen=True, kw_only=True):
    """A study.

    Attributes:
        about: The question.
        base: Recipe that arms change: an installed name, or a path beside the study file.
        set: What all arms change, before they change anything themselves.
        seeds: Of initial weights and data order; pairs of arms share them.
        budgets: What a training may take; every arm runs with each.
        measures: What is measured of each trial: `trained`, `bytes`, `visits`, or strategies of scoring.
        arms: By name; `base` may be given to say what it stands for.
        grids: More arms, one for each combination.
        leave_one_out: Lists of the recipe (`model.modulate`): an arm without each of their members.
        add_one_in: Lists of the recipe: an arm with none of their members, and one with each alone, against that.
        sizes: Every arm runs at each; rank correlations between neighbours say what a small one is worth.
        order: `interleaved`: all arms of a seed, then the next seed; `blocked`: all seeds of an arm.
    """

    about: str
    base: str
    set: Table = msgspec.field(default_factory=dict)
    drop: tuple[str, ...] = ()
    seeds: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    budgets: tuple[BudgetConfig, ...]
    measures: tuple[str, ...] = (TRAINED, DISJOINT, BYTES)
    decision: DecisionConfig = DecisionConfig()
    sequential: SequentialConfig | None = None
    arms: dict[str, ArmConfig] = msgspec.field(default_factory=dict)
    grids: tuple[GridConfig, ...] = ()
    leave_one_out: tuple[str, ...] = ()
    add_one_in: tuple[str, ...] = ()
    sizes: tuple[SizeConfig, ...] = ()
    order: Literal["interleaved", "blocked"] = "interleaved"
    limits: LimitsConfig = LimitsConfig()

    def __post_init__(self) -> None:
        if not self.budgets:
            raise ValueError("budgets: give at least one, as in budgets = [{ steps = 600 }]")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more that differ, got {list(self.seeds)}")
        if self.decision.metric not in self.measures:
            raise ValueError(f"decision.metric '{self.decision.metric}' is not measured: {list(self.measures)}")
        if self.sequential and self.sequential.looks[-1] > len(self.seeds):
            raise ValueError(f"sequential.looks: {self.sequential.looks[-1]} seeds are more than there are")
        names = [*self.arms, *(size.name for size in self.sizes)]
        for name in names:
            if not _NAME.fullmatch(name):
                raise ValueError(f"'{name}' cannot name an arm or a size: letters, digits and _ . + = - only")
        if len({size.name for size in self.sizes}) < len(self.sizes):
            raise ValueError("sizes must have names that differ")
