"""Study files, plans and outcomes for tests: outcomes with known effects, without a training."""

from pathlib import Path

import msgspec
import numpy as np

from nutshell.files import write_json
from nutshell.study.jobs import Ended
from nutshell.study.outcome import Curve, Outcome
from nutshell.study.plan import read_study
from nutshell.study.trial import OUTCOME

DATA = "d" * 64
STUDY = """
about = "does it pay?"
base = "sp8192-loop36-cpu"
seeds = [0, 1, 2, 3]
budgets = [{ steps = 12 }]

[decision]
margin = 0.002

[arms.loop35]
hypothesis = "two do as well"
set.model.depth.schedule = "0 (1-2)x3 3-5"

[arms.flat]
set.model.depth.schedule = "0-5"
drop = ["train.phases"]
"""


def written(folder: Path, text: str = STUDY) -> Path:
    path = folder / "try.toml"
    path.write_text(text)
    return path


def planned(folder: Path, text: str = STUDY):
    return read_study(written(folder, text), data_digest=DATA)


def outcome(trial, **changed) -> Outcome:
    """An outcome that depends on its trial alone: better the deeper, with noise of the seed and of the arm."""
    rng = np.random.default_rng([trial.seed, len(trial.arm), sum(map(ord, trial.arm + trial.size))])
    bpb = 1.5 + 0.02 * (trial.arm == "flat") + 0.01 * trial.seed + 0.001 * rng.normal()
    steps = tuple(range(1, 13))
    own = {
        "key": trial.key,
        "study": "try",
        "arm": trial.arm,
        "size": trial.size,
        "budget": trial.budget_name,
        "seed": trial.seed,
        "measures": {"trained": bpb - 0.01, "disjoint": bpb, "bytes": 1000.0},
        "num_params": 5,
        "steps": 12,
        "tokens": 1200,
        "train_seconds": 3.0,
        "trial_seconds": 10.0,
        "curve": Curve(
            steps=steps,
            tokens=tuple(100 * step for step in steps),
            seconds=tuple(0.25 * step for step in steps),
            bpb=tuple(bpb + 1 / step for step in steps),
        ),
        "schedule": trial.recipe.final_schedule.text,
        "data_digest": DATA,
        "recipe_digest": "r",
        "processor": "a processor",
        "versions": {"torch": "2"},
        "code_digest": "c",
    }
    return Outcome(**{**own, **changed})


class FakeExecutor:
    """Does a trial's work at once; some fail, and after some the runner is killed.

    Attributes:
        ran: names of the trials, in order.
    """

    def __init__(self, plan, out, *, failing=(), killed_after=None):
        self.trials = {trial.folder: trial for trial in plan.trials}
        self.out, self.failing, self.left = out, failing, killed_after
        self.ran: list[str] = []

    def run(self, jobs):
        for job in jobs:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            self.ran.append(job.name)
            trial = self.trials[job.name]
            if (trial.arm, trial.seed) in self.failing:
                yield Ended(job.name, "status", 1, "Traceback\nValueError: it broke", 1.0, 5)
                continue
            folder = self.out / job.name
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / OUTCOME, msgspec.to_builtins(outcome(trial)))
            yield Ended(job.name, "", 0, "", 1.0, 5)
