"""From the outcomes of a study to its tables and verdicts. Nothing here is stored: all is computed from outcomes."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from nutshell.study import stats
from nutshell.study.config import DISJOINT, TRAINED, DecisionConfig
from nutshell.study.outcome import Outcome, is_complete
from nutshell.study.plan import Arm, Plan, Trial

GAP = "gap"
"""What packing costs: `disjoint` less `trained`."""


class Cell(NamedTuple):
    """Where arms are comparable: one size under one budget."""

    size: str
    budget: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """An arm in a cell: means over its seeds, and their standard deviation (None for a single seed)."""

    arm: str
    size: str
    budget: str
    seeds: int
    failed: int
    means: dict[str, float]
    sds: dict[str, float | None]
    num_params: int
    steps: float
    tokens: float
    ms_per_step: float
    schedule: str
    visits: tuple[float, ...]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A difference, arm less the one that it is against, with its simultaneous interval."""

    mean: float
    low: float
    high: float
    seeds: int
    paired: bool


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """An arm against another in a cell, on the metric that the study decides by.

    Attributes:
        effect: On the metric; None for too few seeds.
        verdict: Of the whole study's error rate.
        p: Smallest error rate of this one comparison at which there were a verdict; `p_adjusted` of the study.
        looked: Seeds at the look that decided; in a study without looks, all.
        hopeless: Whether it was stopped because no verdict was likely any more.
        seeds_needed: So that the effect seen would be told with the wanted power; None: more than can be had.
        seconds_needed: What the seeds that are missing for that would take.
        others: Effects on the other measures, at the same level: what explains a verdict, not verdicts.
        at_equal_steps, at_equal_time: Effects on the training loss where both curves have come equally far.
        published: The published difference; `same_sign` holds ours against it.
    """

    arm: str
    against: str
    size: str
    budget: str
    hypothesis: str
    effect: Effect | None
    verdict: stats.Verdict
    p: float | None
    p_adjusted: float | None
    looked: int
    hopeless: bool
    seeds_needed: int | None
    seconds_needed: float | None
    others: dict[str, Effect]
    at_equal_steps: Effect | None
    at_equal_time: Effect | None
    published: float | None
    same_sign: bool | None


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """How far an arm's metric scatters over seeds, with bounds; and the smallest difference that they could tell."""

    arm: str
    size: str
    budget: str
    seeds: int
    sd: float
    low: float
    high: float
    paired_sd: float | None
    detectable: float | None


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """How alike two sizes rank the arms under a budget."""

    small: str
    large: str
    budget: str
    correlation: float
    low: float
    high: float
    arms: int


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report says of a study.

    Attributes:
        family: Comparisons that share the study's error rate.
    """

    name: str
    about: str
    decision: DecisionConfig
    family: int
    trials: int
    done: int
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    noise: tuple[Noise, ...]
    ladder: tuple[Rung, ...]


class _Found:
    """Outcomes by arm and cell, and within those by seed."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._by_arm: dict[tuple[str, Cell], dict[int, Outcome]] = {}
        for outcome in outcomes:
            cell = Cell(outcome.size, outcome.budget)
            self._by_arm.setdefault((outcome.arm, cell), {})[outcome.seed] = outcome

    def of(self, arm: str, cell: Cell, seeds: Sequence[int] | None = None) -> dict[int, Outcome]:
        found = self._by_arm.get((arm, cell), {})
        return {seed: found[seed] for seed in sorted(found) if seeds is None or seed in seeds}

    def values(self, arm: str, cell: Cell, measure: str, seeds: Sequence[int] | None = None) -> dict[int, float]:
        return _values(self.of(arm, cell, seeds), measure)


def measured(outcome: Outcome) -> dict[str, float]:
    """Give the measures of a trial, and what packing cost where both sides of it were measured."""
    own = dict(outcome.measures)
    if TRAINED in own and DISJOINT in own:
        own[GAP] = own[DISJOINT] - own[TRAINED]
    return own


def analyse(
    plan: Plan, outcomes: Iterable[Outcome], *, failed: Mapping[tuple[str, Cell], int] | None = None
) -> Analysis:
    """Analyse what there is of a study.

    Args:
        plan: The study.
        outcomes: Of its trials; others, and those that lack a measure, are passed over.
        failed: Trials that failed, by arm and cell.
    """
    keys = {trial.key for trial in plan.trials}
    own = [each for each in outcomes if each.key in keys and is_complete(each, plan.config.measures)]
    found, cells = _Found(own), cells_of(plan)
    return Analysis(
        name=plan.name,
        about=plan.config.about,
        decision=plan.config.decision,
        family=family(plan),
        trials=len(plan.trials),
        done=len(own),
        summaries=tuple(
            _summary(arm.name, cell, found.of(arm.name, cell), (failed or {}).get((arm.name, cell), 0))
            for cell in cells
            for arm in plan.arms
            if found.of(arm.name, cell) or (failed or {}).get((arm.name, cell))
        ),
        comparisons=tuple(_comparison(plan, arm, cell, found) for cell in cells for arm in plan.arms if arm.against),
        noise=tuple(noise for cell in cells for noise in _noise(plan, cell, found)),
        ladder=tuple(_ladder(plan, found)),
    )


def cells_of(plan: Plan) -> list[Cell]:
    """List where arms are comparable."""
    return [Cell(size, budget) for size in plan.sizes for budget in plan.budgets]


def family(plan: Plan) -> int:
    """Count the comparisons of a study: each has an equal share of its error rate."""
    return sum(arm.against is not None for arm in plan.arms) * len(cells_of(plan))


def still_open(plan: Plan, outcomes: Iterable[Outcome]) -> Callable[[Trial], bool]:
    """Say which trials a sequential study still wants: of arms that are undecided, and of what those are against."""
    found = _Found(outcomes)
    wanted: set[tuple[str, Cell]] = set()
    for arm in plan.arms:
        for cell in cells_of(plan):
            if arm.against and not _decided(plan, arm, cell, found).is_closed:
                wanted |= {(arm.name, cell), (arm.against, cell)}
    return lambda trial: (trial.arm, Cell(trial.size, trial.budget_name)) in wanted


class _Decided(NamedTuple):
    """What a comparison came to at its last look."""

    difference: stats.Difference | None
    alpha: float
    verdict: stats.Verdict
    seeds: Sequence[int]
    hopeless: bool

    @property
    def is_closed(self) -> bool:
        return self.hopeless or self.verdict != "undecided"


def _decided(plan: Plan, arm: Arm, cell: Cell, found: _Found) -> _Decided:
    """Look as often as the study says, and stop at the look that decides."""
    config = plan.config
    assert arm.against is not None
    decision = config.decision
    share = decision.alpha / family(plan)
    looks = config.sequential.looks if config.sequential else (len(config.seeds),)
    alphas = stats.spent(share, looks) if config.sequential else [share]
    last = _Decided(None, alphas[0], "undecided", (), hopeless=False)
    for look, alpha in zip(looks, alphas, strict=True):
        seeds = config.seeds[:look]
        difference = stats.difference(
            found.values(arm.name, cell, decision.metric, seeds),
            found.values(arm.against, cell, decision.metric, seeds),
        )
        if difference is None or (last.difference and difference.seeds == last.difference.seeds):
            continue  # this look has not come yet
        verdict = stats.verdict(stats.interval(difference, alpha), decision.margin)
        hopeless = False
        if config.sequential and verdict == "undecided" and look < looks[-1]:
            chance = stats.power(difference.mean, _sd(difference), looks[-1], margin=decision.margin, alpha=alphas[-1])
            hopeless = chance < config.sequential.hopeless
        last = _Decided(difference, alpha, verdict, seeds, hopeless)
        if last.is_closed:
            break
    return last


def _sd(difference: stats.Difference) -> float:
    """Give the scatter of one pair that the standard error comes from."""
    return difference.error * difference.seeds**0.5


def _comparison(plan: Plan, arm: Arm, cell: Cell, found: _Found) -> Comparison:
    assert arm.against is not None
    decision, decided = plan.config.decision, _decided(plan, arm, cell, found)
    difference, seeds = decided.difference, decided.seeds
    p = stats.p_value(difference, decision.margin) if difference else None
    needed = (
        stats.seeds_for(
            difference.mean,
            _sd(difference),
            margin=decision.margin,
            alpha=decision.alpha / family(plan),
            wanted=decision.power,
        )
        if difference and decided.verdict == "undecided"
        else None
    )
    missing = max(0, needed - difference.seeds) if needed and difference else None
    pairs = [found.of(name, cell, seeds or None) for name in (arm.name, arm.against)]
    others = {
        measure: effect
        for measure in _measures(pairs)
        if measure != decision.metric
        and (effect := _effect(stats.difference(*(_values(side, measure) for side in pairs)), decided.alpha))
    }
    effect = _effect(difference, decided.alpha)
    return Comparison(
        arm=arm.name,
        against=arm.against,
        size=cell.size,
        budget=cell.budget,
        hypothesis=arm.hypothesis,
        effect=effect,
        verdict=decided.verdict,
        p=p,
        p_adjusted=min(1.0, p * family(plan)) if p is not None else None,
        looked=len(seeds),
        hopeless=decided.hopeless,
        seeds_needed=needed,
        seconds_needed=missing * sum(map(_trial_seconds, pairs)) if missing is not None else None,
        others=others,
        at_equal_steps=_at_equal("steps", pairs, decided.alpha),
        at_equal_time=_at_equal("seconds", pairs, decided.alpha),
        published=arm.published,
        same_sign=None if arm.published is None or not effect else (effect.mean > 0) == (arm.published > 0),
    )


def _measures(sides: Sequence[Mapping[int, Outcome]]) -> list[str]:
    """List what all trials of both sides have."""
    every = [measured(outcome).keys() for side in sides for outcome in side.values()]
    return [name for name in every[0] if all(name in names for names in every)] if every else []


def _values(side: Mapping[int, Outcome], measure: str) -> dict[int, float]:
    return {seed: measured(outcome)[measure] for seed, outcome in side.items()}


def _trial_seconds(side: Mapping[int, Outcome]) -> float:
    return statistics.fmean(outcome.trial_seconds for outcome in side.values()) if side else 0.0


def _effect(difference: stats.Difference | None, alpha: float) -> Effect | None:
    if difference is None:
        return None
    bounds = stats.interval(difference, alpha)
    return Effect(
        mean=difference.mean, low=bounds.low, high=bounds.high, seeds=difference.seeds, paired=difference.paired
    )


def _at_equal(axis: str, sides: Sequence[Mapping[int, Outcome]], alpha: float) -> Effect | None:
    """Compare curves where both have come equally far: at the end of the shorter one, for each pair of a seed."""
    arm, against = sides
    found: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for seed in sorted(arm.keys() & against.keys()):
        curves = arm[seed].curve, against[seed].curve
        stop = min(getattr(curve, axis)[-1] for curve in curves)
        for own, curve in zip(found, curves, strict=True):
            own[seed] = float(np.interp(stop, getattr(curve, axis), curve.bpb))
    return _effect(stats.difference(*found), alpha)


def _summary(arm: str, cell: Cell, outcomes: Mapping[int, Outcome], failed: int) -> Summary:
    every = list(outcomes.values())
    names = _measures([outcomes])
    columns = {name: [measured(outcome)[name] for outcome in every] for name in names}
    visits = [outcome.visits for outcome in every if outcome.visits]
    return Summary(
        arm=arm,
        size=cell.size,
        budget=cell.budget,
        seeds=len(every),
        failed=failed,
        means={name: statistics.fmean(values) for name, values in columns.items()},
        sds={name: statistics.stdev(values) if len(values) > 1 else None for name, values in columns.items()},
        num_params=every[0].num_params if every else 0,
        steps=_mean(outcome.steps for outcome in every),
        tokens=_mean(outcome.tokens for outcome in every),
        ms_per_step=_mean(1e3 * outcome.curve.seconds[-1] / outcome.curve.steps[-1] for outcome in every),
        schedule=every[0].schedule if every else "",
        visits=tuple(float(each) for each in np.mean(visits, axis=0)) if visits else (),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.fmean(found) if found else 0.0


def _noise(plan: Plan, cell: Cell, found: _Found) -> Iterator[Noise]:
    """Measure the noise floor: of each arm that others are against."""
    decision = plan.config.decision
    share = decision.alpha / family(plan) if family(plan) else decision.alpha
    for name in dict.fromkeys(arm.against for arm in plan.arms if arm.against):
        values = found.values(name, cell, decision.metric)
        floor = stats.noise_floor(list(values.values()), alpha=decision.alpha)
        if floor is None:
            continue
        paired = [
            _sd(difference)
            for arm in plan.arms
            if arm.against == name
            and (difference := stats.difference(found.values(arm.name, cell, decision.metric), values))
            and difference.paired
        ]
        scatter = statistics.median(paired) if paired else None
        yield Noise(
            arm=name,
            size=cell.size,
            budget=cell.budget,
            seeds=len(values),
            sd=floor[0],
            low=floor[1].low,
            high=floor[1].high,
            paired_sd=scatter,
            detectable=stats.smallest_effect(
                scatter if scatter is not None else floor[0] * 2**0.5,
                len(values),
                margin=decision.margin,
                alpha=share,
                wanted=decision.power,
            ),
        )


def _ladder(plan: Plan, found: _Found) -> Iterator[Rung]:
    """Correlate the ranks of neighbouring sizes."""
    decision = plan.config.decision
    for small, large in zip(plan.sizes, plan.sizes[1:], strict=False):
        for budget in plan.budgets:
            sides = [
                {
                    arm.name: values
                    for arm in plan.arms
                    if (values := found.values(arm.name, Cell(size, budget), decision.metric))
                }
                for size in (small, large)
            ]
            ranking = stats.rank_correlation(*sides, alpha=decision.alpha)
            if ranking:
                yield Rung(
                    small=small,
                    large=large,
                    budget=budget,
                    correlation=ranking.correlation,
                    low=ranking.bounds.low,
                    high=ranking.bounds.high,
                    arms=ranking.arms,
                )
