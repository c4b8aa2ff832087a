import threading

import pytest

from nutshell.errors import UsageError
from nutshell.study.executors import LocalExecutor, make_executor
from nutshell.study.jobs import Job, run_job


@pytest.fixture
def job(tmp_path):
    return Job("a-job", ["--version"], tmp_path / "folder" / "log.txt")


SLOW = ["doctor"]  # seconds of importing torch


def test_a_job_that_ends_well(job):
    ended = run_job(job, threading.Event())
    assert (ended.name, ended.reason, ended.status) == ("a-job", "", 0)
    assert job.log.read_text().strip() == ended.said


def test_a_job_that_fails_says_why(job):
    ended = run_job(job._replace(arguments=["recipe"]), threading.Event())
    assert (ended.reason, ended.status) == ("status", 2)
    assert ended.said.startswith("nutshell: ")


def test_a_job_that_takes_too_long_is_ended(job):
    ended = run_job(job._replace(arguments=SLOW, seconds=0.2), threading.Event())
    assert ended.reason == "time"
    assert ended.seconds < 30


def test_a_job_that_takes_too_much_memory_is_ended(job):
    ended = run_job(job._replace(arguments=SLOW, memory_bytes=1e6), threading.Event())
    assert ended.reason == "memory"
    assert ended.peak_bytes > 1e6


def test_a_job_is_stopped_when_the_runner_is(job):
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert run_job(job._replace(arguments=SLOW), stop).reason == "stopped"


def test_jobs_get_their_environment(job):
    ended = run_job(job._replace(arguments=["no-verb"], environment={"NO_COLOR": "1"}), threading.Event())
    assert "\x1b" not in ended.said


def test_an_executor_gives_back_every_job(tmp_path):
    jobs = [Job(f"job{place}", ["--version"], tmp_path / f"{place}.txt") for place in range(3)]
    ended = list(LocalExecutor(threads=1, parallel=1).run(jobs))
    assert sorted(each.name for each in ended) == ["job0", "job1", "job2"]
    assert {each.reason for each in ended} == {""}


def test_whoever_stops_listening_stops_the_rest(tmp_path):
    jobs = [Job(f"job{place}", ["--version"], tmp_path / f"{place}.txt") for place in range(5)]
    running = LocalExecutor(threads=1, parallel=1).run(jobs)
    next(running)
    running.close()
    assert len(list(tmp_path.glob("*.txt"))) < 5


@pytest.mark.parametrize(("threads", "parallel"), [(10_000, None), (1, 10_000)])
def test_more_threads_than_cores_are_refused(threads, parallel):
    with pytest.raises(UsageError, match=r"threads at once are too many for \d+ cores"):
        make_executor("local", threads=threads, parallel=parallel)
