"""Where the trials of a study run: one seam, behind which are the processes of this machine, or a Ray cluster.

local   as many at once as the processors have room for, or one a GPU
ray     the same processes, started by Ray wherever it has room; folders must be on a file system that all share
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event
from typing import Literal, Protocol

import torch

from nutshell.errors import UsageError
from nutshell.machine import num_cores
from nutshell.study.jobs import Ended, Job, run_job

ExecutorName = Literal["local", "ray"]


class Executor(Protocol):
    """Runs jobs; gives them back as they end, in whatever order."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]: ...


class LocalExecutor:
    """Processes of this machine, never more threads than it has cores.

    Args:
        threads: of one trial; all cores unless given.
        parallel: trials at once; as many as there is room for unless given.

    Raises:
        UsageError: there is no room for so many.
    """

    def __init__(self, *, threads: int | None = None, parallel: int | None = None) -> None:
        cores = num_cores()
        gpus = torch.cuda.device_count()
        own = threads or max(1, cores // max(gpus, parallel or 1))
        room = gpus or max(1, cores // own)
        if (parallel or 1) > room or own > cores:
            raise UsageError(
                f"study: {parallel or 1} trials of {own} threads at once are too many for {cores} cores"
                + (f" and {gpus} GPUs" if gpus else "")
            )
        self.parallel = parallel or room
        self._threads = own
        self._gpus: SimpleQueue[int] = SimpleQueue()
        for number in range(gpus):
            self._gpus.put(number)
        self._has_gpus = gpus > 0
        self._stop = Event()

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Run jobs; whoever stops listening stops them."""
        self._stop.clear()
        with ThreadPoolExecutor(self.parallel) as pool:
            waiting: set[Future[Ended]] = {pool.submit(self._run, job) for job in jobs}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            except BaseException:
                self._stop.set()
                for future in waiting:
                    future.cancel()
                raise

    def _run(self, job: Job) -> Ended:
        own = {"OMP_NUM_THREADS": str(self._threads)}
        with self._gpu() as gpu:
            return run_job(job._replace(environment={**own, **gpu, **job.environment}), self._stop)

    @contextmanager
    def _gpu(self) -> Iterator[dict[str, str]]:
        """Lend a GPU, as what a process' environment says of it; where there are none, say nothing."""
        if not self._has_gpus:
            yield {}
            return
        number = self._gpus.get()
        try:
            yield {"CUDA_VISIBLE_DEVICES": str(number)}
        finally:
            self._gpus.put(number)


def make_executor(name: ExecutorName, *, threads: int | None, parallel: int | None) -> Executor:
    """Make an executor by name.

    Raises:
        UsageError: it needs a library that is not here, or has no room.
    """
    if name == "local":
        return LocalExecutor(threads=threads, parallel=parallel)
    # An extra of its own: most people have no cluster.
    try:
        from nutshell.study.on_ray import RayExecutor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UsageError("--executor ray needs Ray: pip install 'nutshell-lm[cluster]'") from error
    return RayExecutor(threads=threads or 1, parallel=parallel)
