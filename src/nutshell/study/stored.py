"""All outcomes of a study in one file, small enough to be committed: what its report is made from."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nutshell.errors import RunError
from nutshell.files import write_bytes, write_json
from nutshell.study.analysis import Cell
from nutshell.study.outcome import Outcome
from nutshell.study.plan import Plan
from nutshell.study.runner import Folders, Progress
from nutshell.study.trial import OUTCOME


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
        return Counter((failure.arm, Cell(failure.size, failure.budget)) for failure in self.failed)


def store_study(path: Path, plan: Plan, progress: Progress) -> None:
    """Write the outcomes of a study into one file; those of trials that the study no longer has stay in it.

    Raises:
        RunError: there are none, or the file holds outcomes of other data.
    """
    if not progress.outcomes:
        raise RunError(f"{plan.name}: no trial is done yet, so there is nothing to store")
    outcomes = {outcome.key: outcome for outcome in progress.outcomes.values()}
    if path.exists():
        outcomes = {outcome.key: outcome for outcome in _of_same_data(path, plan).outcomes} | outcomes
    stored = StoredStudy(
        study=plan.name,
        data_digest=plan.data_digest,
        outcomes=tuple(sorted(outcomes.values(), key=lambda own: (own.size, own.budget, own.arm, own.seed, own.key))),
        failed=tuple(
            Failure(arm=trial.arm, size=trial.size, budget=trial.budget_name, seed=trial.seed)
            for trial in progress.failed
        ),
    )
    write_bytes(path, _by_line(stored))


def _by_line(stored: StoredStudy) -> bytes:
    """Write an outcome a line: small, and what is added shows as that."""
    head = msgspec.json.encode(msgspec.structs.replace(stored, outcomes=()))
    lines = b",\n".join(msgspec.json.encode(outcome) for outcome in stored.outcomes)
    return head.replace(b'"outcomes":[]', b'"outcomes":[\n' + lines + b"\n]") + b"\n"


def restore_study(path: Path, plan: Plan, folders: Folders) -> None:
    """Put stored outcomes back into the folders of their trials, so that these are done here, too.

    Raises:
        RunError: the file holds outcomes of other data.
    """
    stored = {outcome.key: outcome for outcome in _of_same_data(path, plan).outcomes}
    for trial in plan.trials:
        if trial.key in stored and not (folders.of(trial) / OUTCOME).exists():
            folders.of(trial).mkdir(parents=True, exist_ok=True)
            write_json(folders.of(trial) / OUTCOME, msgspec.to_builtins(stored[trial.key]))


def _of_same_data(path: Path, plan: Plan) -> StoredStudy:
    stored = read_stored(path)
    if stored.data_digest != plan.data_digest:
        raise RunError(f"{path}: holds outcomes of another data set; choose another file")
    return stored


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
