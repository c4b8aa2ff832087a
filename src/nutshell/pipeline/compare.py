"""Two recipes side by side: the settings in which they differ, and what each gets done in the same training time.

Phases end at fractions of the budget. Where the budget is a time, a phase of share f gets f T seconds, so a cheap step
early buys more steps, not more time; where it is steps or tokens, a phase gets its share of those. All are counted
here phase by phase. "4,550 steps x 17 layers = 4,071 x 19" of openai/parameter-golf 1678 is neither: 35 % of that time
runs 11 layers in both, and a step has a cost that layers do not explain (shared/spec/sp8192-loop36.md 4.2).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeGuard

from nutshell.config.loader import to_table
from nutshell.errors import UsageError
from nutshell.model.accounting import flops_by_part, flops_per_token
from nutshell.model.depth import DepthSchedule
from nutshell.pipeline.describe import describe
from nutshell.recipe import Recipe, Resolved
from nutshell.train.config import BudgetConfig
from nutshell.train.phases import Phase

# The part of a step's time that its FLOPs do not explain (optimizer, launches, averaging). Measured once: the steps of
# openai/parameter-golf 1493 fit 12.2 ms + 8.16 ms a layer, 150.9 ms at 17 layers; by FLOPs the head is worth 1.07
# layers, 8.7 of the 12.2 ms, and the other 3.5 ms are 2.3 %.
OVERHEAD = 0.023

# What is outside the virtual layers, whatever their number.
_ONCE = ("embedding", "inputs", "head")
# One time a layer holds for two recipes only if their layers are the same work, up to a technique's share.
_SAME_LAYER = 0.01


class StepCost(Protocol):
    """How long a training step takes: in seconds, or in a unit of its own."""

    in_seconds: ClassVar[bool]

    def of(self, recipe: Recipe, phase: Phase, schedule: DepthSchedule) -> float: ...

    def words(self) -> str: ...

    def record(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class FlopsCost:
    """Time goes with FLOPs, and `overhead` of the reference's final step is a fixed cost of every step."""

    reference: Recipe
    overhead: float = OVERHEAD
    in_seconds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.overhead < 1:
            raise UsageError(f"describe: --overhead {self.overhead:g}: give a part of a step, from 0 to below 1")

    def of(self, recipe: Recipe, phase: Phase, schedule: DepthSchedule) -> float:
        final = _step_flops(self.reference, self.reference.phases[-1], self.reference.final_schedule)
        return _step_flops(recipe, phase, schedule) + final * self.overhead / (1 - self.overhead)

    def words(self) -> str:
        return f"a step's time goes with its FLOPs, beside a fixed cost of {100 * self.overhead:g} % of A's final step"

    def record(self) -> dict[str, Any]:
        return {"kind": "flops", "overhead": self.overhead}


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Time as measured: a fixed cost a step, and a cost a virtual layer."""

    fixed_ms: float
    layer_ms: float
    in_seconds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 <= self.fixed_ms < math.inf and 0 < self.layer_ms < math.inf):
            raise UsageError(
                f"describe: --step-ms {self.fixed_ms:g} {self.layer_ms:g}: give times that can have been measured"
            )

    def of(self, recipe: Recipe, phase: Phase, schedule: DepthSchedule) -> float:
        smaller = phase.batch_tokens / recipe.phases[-1].batch_tokens  # a layer's time was measured on a whole batch
        return 1e-3 * (self.fixed_ms + self.layer_ms * schedule.num_layers * smaller)

    def words(self) -> str:
        return f"a step takes {self.fixed_ms:g} ms and {self.layer_ms:g} ms a virtual layer in both"

    def record(self) -> dict[str, Any]:
        return {"kind": "layers", "fixed_ms": self.fixed_ms, "layer_ms": self.layer_ms}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A phase as far as time goes: its share of the budget; its steps' mean time, mean number of layers, and tokens."""

    share: float
    step_time: float
    layers: float
    tokens: int = 1

    def spends(self, budget: BudgetConfig) -> float:
        """Give what a step takes of a budget, in the budget's unit."""
        if budget.seconds is not None:
            return self.step_time
        return 1.0 if budget.steps is not None else self.tokens


def compare(a: Resolved, b: Resolved, *, cost: StepCost) -> dict[str, Any]:
    """Put two recipes side by side.

    Raises:
        UsageError: the cost is one of layers, and a layer of one recipe is another's work in the other.
    """
    if isinstance(cost, LayerCost):
        _check_same_layers(a.recipe, b.recipe)
    return {
        "a": describe(a),
        "b": describe(b),
        "differences": differences(_settings(a.recipe), _settings(b.recipe)),
        "equal_time": _equal_time(a.recipe, b.recipe, cost),
    }


def differences(a: Mapping[str, Any], b: Mapping[str, Any], path: str = "") -> list[dict[str, Any]]:
    """List the settings in which two tables differ by dotted path, None for one that a table does not have.

    Members of a list that are chosen by `kind` are compared by kind, and their order apart from that.
    """
    found = []
    for key in dict.fromkeys([*a, *b]):
        ours, theirs, where = a.get(key), b.get(key), f"{path}{key}"
        if ours == theirs:
            continue
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += differences(ours, theirs, f"{where}.")
        elif _is_kinds(ours) and _is_kinds(theirs):
            found += _list_differences(ours, theirs, where)
        else:
            found.append({"path": where, "a": ours, "b": theirs})
    return found


def steps_in(stretches: Sequence[Stretch], time: float, budget: BudgetConfig) -> list[float]:
    """Say how many steps each phase takes in a training that lasts `time`, in the unit of the steps' times."""
    spent = time / _time_by_unit(stretches, budget)
    return [spent * stretch.share / stretch.spends(budget) for stretch in stretches]


def stretches_of(recipe: Recipe, cost: StepCost) -> list[Stretch]:
    """Summarise the phases of a recipe; a phase of several schedules draws each as often as the others."""
    begins = [0.0, *(phase.until for phase in recipe.phases)]
    return [
        Stretch(
            share=phase.until - begin,
            step_time=_mean([cost.of(recipe, phase, schedule) for schedule in phase.schedules]),
            layers=_mean([schedule.num_layers for schedule in phase.schedules]),
            tokens=phase.batch_tokens,
        )
        for begin, phase in zip(begins, recipe.phases, strict=False)
    ]


def _equal_time(a: Recipe, b: Recipe, cost: StepCost) -> dict[str, Any]:
    time, is_known = _training_time(a, cost)
    work_of_a = _work(a, stretches_of(a, cost), time)
    return {
        "assumed": f"{cost.words()}; both train as long as A, and phases last for their shares of the budget",
        "step_cost": cost.record(),
        "a": _side(a, stretches_of(a, cost), time, work_of_a, is_known=is_known),
        "b": _side(b, stretches_of(b, cost), time, work_of_a, is_known=is_known),
    }


def _training_time(recipe: Recipe, cost: StepCost) -> tuple[float, bool]:
    """Give the time of a recipe's training, in the unit of the steps' times, and whether steps can be told from it."""
    budget = recipe.train.budget
    if budget.seconds is not None:
        return (budget.seconds, True) if cost.in_seconds else (1.0, False)
    return (budget.steps or budget.tokens or 0) * _time_by_unit(stretches_of(recipe, cost), budget), True


def _side(
    recipe: Recipe, stretches: Sequence[Stretch], time: float, work_of_a: Mapping[str, float], *, is_known: bool
) -> dict[str, Any]:
    """Say what a recipe gets done in a time, relative to A: in all, by phase, and in numbers where they are known."""
    work = _work(recipe, stretches, time)
    steps = steps_in(stretches, time, recipe.train.budget)
    return {
        "phases": [
            {
                "schedules": [schedule.text for schedule in phase.schedules],
                "layers": stretch.layers,
                "time_share": taken * stretch.step_time / time,
                "steps": taken / work_of_a["steps"],
                "layer_steps": taken * stretch.layers / work_of_a["layer_steps"],
            }
            for phase, stretch, taken in zip(recipe.phases, stretches, steps, strict=True)
        ],
        "relative": {name: amount / work_of_a[name] for name, amount in work.items()},
        "absolute": work if is_known else None,
    }


def _work(recipe: Recipe, stretches: Sequence[Stretch], time: float) -> dict[str, float]:
    steps = steps_in(stretches, time, recipe.train.budget)
    return {
        "steps": sum(steps),
        "layer_steps": sum(taken * stretch.layers for taken, stretch in zip(steps, stretches, strict=True)),
        "tokens": sum(taken * stretch.tokens for taken, stretch in zip(steps, stretches, strict=True)),
    }


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _time_by_unit(stretches: Sequence[Stretch], budget: BudgetConfig) -> float:
    """Give the mean time in which a unit of the budget is spent; phases last for shares of the budget."""
    return sum(stretch.share * stretch.step_time / stretch.spends(budget) for stretch in stretches)


def _step_flops(recipe: Recipe, phase: Phase, schedule: DepthSchedule) -> float:
    return flops_per_token(recipe.model, schedule, phase.seq_len) * phase.batch_tokens


def _check_same_layers(a: Recipe, b: Recipe) -> None:
    ratio = _layer_flops(b) / _layer_flops(a)
    if abs(ratio - 1) > _SAME_LAYER:
        raise UsageError(
            f"describe: --step-ms: a virtual layer of B is {ratio:.2f} times the work of one of A, so one time cannot "
            "hold for both; drop it to go by FLOPs"
        )


def _layer_flops(recipe: Recipe) -> float:
    """Count the FLOPs of a step in the virtual layers of the final schedule, per layer."""
    schedule = recipe.final_schedule
    parts = flops_by_part(recipe.model, schedule, recipe.train.seq_len)
    inside = sum(number for part, number in parts.items() if part.seam not in _ONCE)
    return inside * recipe.phases[-1].batch_tokens / schedule.num_layers


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All settings; what a recipe says about itself is none."""
    return {key: value for key, value in to_table(recipe).items() if key != "about"}


def _is_kinds(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Tell a list of components, each of another kind."""
    if not isinstance(value, list) or not all(isinstance(item, Mapping) and "kind" in item for item in value):
        return False
    return len({item["kind"] for item in value}) == len(value)


def _list_differences(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], path: str
) -> list[dict[str, Any]]:
    ours, theirs = ({item["kind"]: item for item in items} for items in (a, b))
    found = differences(ours, theirs, f"{path}.")
    common = [[kind for kind in one if kind in other] for one, other in ((ours, theirs), (theirs, ours))]
    if common[0] != common[1]:
        found.append({"path": f"{path} (order)", "a": common[0], "b": common[1]})
    return found
