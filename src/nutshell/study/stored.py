"""All outcomes of a study in one file, small enough to be committed: what its report is made from."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from nutshell.errors import RunError
from nutshell.files import write_json
from nutshell.study.analysis import Cell
from nutshell.study.outcome import Outcome
from nutshell.study.plan import Plan
from nutshell.study.runner import Progress


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trial that failed."""

    arm: str
    size: str
    budget: str
    seed: int


class StoredStudy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The outcomes of a study.

    Attributes:
        data_digest: Of the data set that the trials ran on.
    """

    study: str
    data_digest: str
    outcomes: tuple[Outcome, ...]
    failed: tuple[Failure, ...] = ()

    def failures(self) -> Mapping[tuple[str, Cell], int]:
        found: dict[tuple[str, Cell], int] = {}
        for failure in self.failed:
            where = failure.arm, Cell(failure.size, failure.budget)
            found[where] = found.get(where, 0) + 1
        return found


def store_study(path: Path, plan: Plan, progress: Progress) -> None:
    """Write the outcomes of a study into one file.

    Raises:
        RunError: there are none.
    """
    if not progress.outcomes:
        raise RunError(f"{plan.name}: no trial is done yet, so there is nothing to store")
    failed = [trial for trial, state in progress.states.items() if state == "failed"]
    outcomes = tuple(progress.outcomes.values())
    stored = StoredStudy(
        study=plan.name,
        data_digest=outcomes[0].data_digest,
        outcomes=outcomes,
        failed=tuple(
            Failure(arm=trial.arm, size=trial.size, budget=trial.budget_name, seed=trial.seed) for trial in failed
        ),
    )
    write_json(path, msgspec.to_builtins(stored))


def read_stored(path: Path) -> StoredStudy:
    """Read what was stored.

    Raises:
        RunError: the file is missing, damaged, or no study's.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=StoredStudy)
    except OSError as error:
        raise RunError(f"{path}: cannot read the study ({error.strerror})") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(f"{path}: not a stored study ({error})") from error
