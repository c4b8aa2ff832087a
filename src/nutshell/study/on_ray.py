"""Trials on a Ray cluster: the same processes, started where Ray has room for them."""

from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import ray
from ray.exceptions import RayError

from nutshell.study.jobs import Ended, Job, run_job


class RayExecutor:
    """Asks the cluster that RAY_ADDRESS names, or one that is started here, for cores and a GPU where it has some.

    Study file, data set and folders must lie where every node sees them. A trial whose node is lost is one that failed.

    Args:
        threads: of one trial.
        parallel: trials at once; as many as the cluster has room for unless given.
    """

    def __init__(self, *, threads: int, parallel: int | None) -> None:
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._threads, self._parallel = threads, parallel
        self._gpus = 1 if ray.cluster_resources().get("GPU") else 0

    def run(self, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Run jobs; whoever stops listening stops them."""
        remote: Any = ray.remote(_run)
        options = {"num_cpus": self._threads, "num_gpus": self._gpus, "max_retries": 0}
        left, running = list(jobs), {}
        try:
            while left or running:
                while left and (self._parallel is None or len(running) < self._parallel):
                    job = left.pop(0)
                    own = {"OMP_NUM_THREADS": str(self._threads), **job.environment}
                    running[remote.options(**options).remote(job._replace(environment=own))] = job
                done, _ = ray.wait(list(running), num_returns=1)
                for reference in done:
                    job = running.pop(reference)
                    yield _result(reference, job)
        finally:
            for reference in running:
                ray.cancel(reference)


def _run(job: Job) -> Ended:
    return run_job(job, Event())


def _result(reference: Any, job: Job) -> Ended:
    try:
        return ray.get(reference)
    except RayError as error:
        return Ended(job.name, "status", -1, str(error), 0.0, 0)
