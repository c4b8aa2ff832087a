"""A process that runs one trial: started, watched against its limits, and told of when it has ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Literal, NamedTuple

from nutshell.memory import tree_bytes

_LOOK_SECONDS = 1.0
# Between asking a process to stop, so that it can write a checkpoint, and ending it.
_GRACE_SECONDS = 20.0
_STDERR_LINES = 30


class Job(NamedTuple):
    """A trial to run.

    Attributes:
        name: Of the trial.
        arguments: Of the `nutshell` command.
        log: File that gets what it says.
        environment: Set for it, beside what this process has.
        seconds: Most that it may take.
        memory_bytes: Most that its processes may hold together.
    """

    name: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = {}
    seconds: float | None = None
    memory_bytes: float | None = None


Reason = Literal["", "status", "time", "memory", "stopped"]


class Ended(NamedTuple):
    """How a process ended: well if `reason` is empty; `said` are its last lines."""

    name: str
    reason: Reason
    status: int
    said: str
    seconds: float
    peak_bytes: int


def run_job(job: Job, stop: Event) -> Ended:
    """Run a process to its end, its limit, or until it is to stop."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    start, peak = time.monotonic(), 0
    reason: Reason = ""
    with job.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nutshell", *job.arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **job.environment},
            start_new_session=True,
        )
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid) or 0)
            seconds = time.monotonic() - start
            if stop.is_set():
                reason = "stopped"
            elif job.seconds is not None and seconds > job.seconds:
                reason = "time"
            elif job.memory_bytes is not None and peak > job.memory_bytes:
                reason = "memory"
            if reason:
                _end(process)
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_SECONDS)
    status = process.wait()
    said = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_STDERR_LINES:]
    return Ended(
        job.name, reason or ("status" if status else ""), status, "\n".join(said), time.monotonic() - start, peak
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process and its children to stop, and end those that do not."""
    for number, patience in ((signal.SIGINT, _GRACE_SECONDS), (signal.SIGKILL, _GRACE_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
