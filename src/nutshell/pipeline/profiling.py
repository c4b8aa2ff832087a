"""Where the time of a training goes: by phase, by stage of the step, and by operator.

In each phase some steps are recorded by torch's profiler once it has run a few. On a GPU every stage of a recorded step
is waited for, so that what the GPU does belongs to the stage that asked for it. Recorded steps train like all others
and count in the budget: a profiled run makes a few steps fewer in the same time. The recordings are read after the run.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from nutshell.train.stages import StageName, Stages

# Of each phase. The first steps of a process fill caches and allocators.
WARM_STEPS, RECORDED_STEPS = 2, 3
TOP_OPERATORS = 30
_MARK = "nutshell::"
_BEGIN = "begin"
# These stages are groups of their own, whatever they run.
_GROUPS_OF_STAGES = {"data": "data loading", "loss": "loss", "optimizer": "optimizer", "average": "average"}
# The first whose word is in an operator's name has it.
_GROUPS_OF_NAMES = (
    ("attention", ("attention", "flash", "fmha", "attn", "sdpa")),
    ("compiled", ("compiled", "triton")),
    ("matrix products", ("::mm", "bmm", "addmm", "matmul", "linear", "gemm", "nvjet", "cutlass", "xmma", "splitk")),
    ("autograd", ("autograd::", "backward0", "backward1")),
    ("copies", ("copy", "memcpy", "memset", "::cat", "::stack", "::clone", "::to", "::zero_", "::fill_")),
    ("elementwise", ("aten::", "elementwise", "reduce", "multi_tensor", "_foreach")),
)


class Event(NamedTuple):
    """One run of an operator: seconds of its own, without what it called, and the bytes it left allocated."""

    name: str
    start: float
    seconds: float
    bytes: int


class Operator(NamedTuple):
    """What one operator took in one stage, per step."""

    name: str
    stage: str
    group: str
    calls: float
    seconds: float
    bytes: float


def group_of(name: str, stage: str) -> str:
    """Say what kind of work an operator does: that of its stage, or else by its name."""
    if stage in _GROUPS_OF_STAGES:
        return _GROUPS_OF_STAGES[stage]
    lower = name.lower()
    return next((group for group, words in _GROUPS_OF_NAMES if any(word in lower for word in words)), "other")


def read_events(recorded: profile, *, on_gpu: bool) -> tuple[list[Event], list[tuple[float, str]]]:
    """Give the operators (on a GPU its kernels) and the marks of a recording, as (time, stage that ended there)."""
    events, marks = [], []
    for event in recorded.events() or ():
        start = event.time_range.start
        is_kernel = event.device_type == DeviceType.CUDA
        if event.name.startswith(_MARK):
            if not is_kernel:
                marks.append((start, event.name.removeprefix(_MARK)))
        elif is_kernel and on_gpu:
            events.append(Event(event.name, start, 1e-6 * event.time_range.elapsed_us(), 0))
        elif not is_kernel and not on_gpu:
            events.append(Event(event.name, start, 1e-6 * event.self_cpu_time_total, event.self_cpu_memory_usage))
    return events, sorted(marks)


def add_up(events: Iterable[Event], marks: Sequence[tuple[float, str]], num_steps: int) -> list[Operator]:
    """Add up events by name and stage, the longest first; what lies outside of the steps is left out."""
    times = [time for time, _ in marks]
    totals: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for event in events:
        number = bisect_right(times, event.start)  # the stage ends at the next mark
        if number == len(marks) or marks[number][1] == _BEGIN:
            continue
        total = totals[event.name, marks[number][1]]
        for place, value in enumerate((1, event.seconds, event.bytes)):
            total[place] += value
    found = [
        Operator(name, stage, group_of(name, stage), *(value / num_steps for value in total))
        for (name, stage), total in totals.items()
    ]
    return sorted(found, key=lambda operator: -operator.seconds)


@dataclass
class _Recording:
    """The recorded steps of one phase; `under_way` has the stages of a step that has not ended."""

    profile: profile
    steps: int = 0
    seconds: float = 0.0
    stages: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    schedules: Counter[str] = field(default_factory=Counter)
    under_way: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    schedule: str = ""

    def end_step(self, seconds: float) -> None:
        """Count the step that was under way."""
        self.steps += 1
        self.seconds += seconds
        self.schedules[self.schedule] += 1
        for stage, spent in self.under_way.items():
            self.stages[stage] += spent
        self.under_way.clear()


class Profiler(Stages):
    """Records some steps of each phase.

    Args:
        device: where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: Counter[int] = Counter()
        self._step_seconds: defaultdict[int, list[float]] = defaultdict(list)
        self._recordings: dict[int, _Recording] = {}
        self._open: _Recording | None = None
        self._phase, self._in_step = 0, False
        self._start = self._last = 0.0

    def begin(self, phase: int, schedule: str) -> None:
        if self._open and phase != self._phase:
            self._close()
        self._phase = phase
        self._seen[phase] += 1
        if not self._open and self._seen[phase] == WARM_STEPS + 1:
            self._open = self._recordings[phase] = _Recording(_new_profile(self._device))
            self._open.profile.start()
        self._in_step = True
        if self._open:
            self._open.schedule = schedule
            self._mark(_BEGIN)
        self._start = self._last = perf_counter()

    def done(self, stage: StageName) -> None:
        if not self._open or not self._in_step:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = perf_counter()
        self._open.under_way[stage] += now - self._last
        self._mark(stage)
        self._last = perf_counter()

    def end(self) -> None:
        self._in_step = False
        seconds = perf_counter() - self._start
        if not self._open:
            self._step_seconds[self._phase].append(seconds)
            return
        self._open.end_step(seconds)
        if self._open.steps == RECORDED_STEPS:
            self._close()

    def result(self) -> dict[str, Any]:
        """Read the recordings; the run is over, and a step that did not end is left out."""
        self._close()
        on_gpu = self._device.type == "cuda"
        return {
            "device": str(self._device),
            "clock": "counted",
            "warm_steps": WARM_STEPS,
            "phases": [
                _phase_result(phase, self._recordings.get(phase), self._step_seconds[phase][WARM_STEPS:], on_gpu)
                for phase in sorted(self._seen)
            ],
        }

    def _mark(self, name: str) -> None:
        with record_function(f"{_MARK}{name}"):
            pass

    def _close(self) -> None:
        if self._open:
            self._open.profile.stop()
        self._open = None


def _new_profile(device: torch.device) -> profile:
    cpu = [ProfilerActivity.CPU]
    activities = [*cpu, ProfilerActivity.CUDA] if device.type == "cuda" else cpu
    return profile(activities=activities, profile_memory=True, acc_events=True)


def _phase_result(phase: int, recording: _Recording | None, others: Sequence[float], on_gpu: bool) -> dict[str, Any]:
    """Say where a phase's time went, per step; only that it was too short where nothing was recorded."""
    if recording is None or not recording.steps:
        return {"phase": phase, "steps": 0}
    steps = recording.steps
    events, marks = read_events(recording.profile, on_gpu=on_gpu)
    operators = add_up(events, _of_first_steps(marks, steps), steps)
    whole = sum(operator.seconds for operator in operators)
    groups: defaultdict[str, float] = defaultdict(float)
    for operator in operators:
        groups[operator.group] += operator.seconds
    return {
        "phase": phase,
        "steps": steps,
        "schedules": dict(recording.schedules),
        "seconds_per_step": recording.seconds / steps,
        "seconds_per_step_unrecorded": sum(others) / len(others) if others else None,
        "stages": _shares({stage: seconds / steps for stage, seconds in recording.stages.items()}),
        "operator_seconds": whole,
        "groups": _shares(groups),
        "operators": [
            {**operator._asdict(), "share": operator.seconds / whole if whole else 0.0}
            for operator in operators[:TOP_OPERATORS]
        ],
        "num_operators": len(operators),
    }


def _of_first_steps(marks: Sequence[tuple[float, str]], steps: int) -> Sequence[tuple[float, str]]:
    """Keep the marks of so many steps."""
    begins = [place for place, (_, name) in enumerate(marks) if name == _BEGIN]
    return marks[: begins[steps]] if len(begins) > steps else marks


def _shares(seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Put beside each number of seconds its share in their sum, the longest first."""
    whole = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: {"seconds": value, "share": value / whole if whole else 0.0} for name, value in ordered}
