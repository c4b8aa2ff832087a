"""The executor on a cluster of this one machine."""

import warnings

import pytest

from nutshell.study.executors import make_executor
from nutshell.study.jobs import Job

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def executor():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of what it will change
        ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
        yield make_executor("ray", threads=1, parallel=None)
        ray.shutdown()


def test_jobs_run_on_the_cluster(executor, tmp_path):
    jobs = [Job(f"job{place}", ["--version"], tmp_path / str(place) / "log.txt") for place in range(3)]
    jobs.append(Job("wrong", ["no-such-verb"], tmp_path / "wrong" / "log.txt"))
    ended = {each.name: each for each in executor.run(jobs)}
    assert {name: each.reason for name, each in ended.items()} == {
        "job0": "", "job1": "", "job2": "", "wrong": "status"
    }  # fmt: skip
    assert ended["wrong"].said.startswith("nutshell: ")
    assert (tmp_path / "2" / "log.txt").read_text().strip() == ended["job2"].said


def test_a_job_that_cannot_even_begin_has_failed(executor, tmp_path):
    (tmp_path / "file").write_text("")
    (ended,) = executor.run([Job("lost", ["--version"], tmp_path / "file" / "log.txt")])
    assert (ended.reason, ended.status) == ("status", -1)
    assert "NotADirectoryError" in ended.said or "FileExistsError" in ended.said
