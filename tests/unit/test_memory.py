import os
import subprocess
import sys
import threading

import pytest

from nutshell import memory
from nutshell.memory import TreeWatch, peak_process_bytes

MB = 1_000_000
CHILD = "import sys; content = b'x' * 80_000_000; print('ready', flush=True); sys.stdin.read()"
GRANDPARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"

linux = pytest.mark.skipif(sys.platform != "linux", reason="the tree is read from Linux's /proc")


def test_the_peak_of_a_process_grows_with_what_it_holds_and_does_not_shrink():
    before = peak_process_bytes()
    assert 10 * MB < before < 100_000 * MB
    held = b"x" * (before + 50 * MB)
    num_bytes = len(held)
    assert peak_process_bytes() > num_bytes
    del held
    assert peak_process_bytes() > num_bytes  # to the batch of pages by which the kernel counts


@linux
def test_a_process_is_not_charged_with_the_peak_of_the_one_that_started_it():
    """As `getrusage` would: what a program had before it ran another is no concern of that."""
    held = b"x" * (400 * MB)
    command = [sys.executable, "-c", "from nutshell.memory import peak_process_bytes; print(peak_process_bytes())"]
    assert int(subprocess.check_output(command)) < 200 * MB < len(held)


KEPT = """
import torch
from nutshell.memory import _proportional_bytes, give_back_freed_memory, keep_freed_memory
import os
assert keep_freed_memory()
held = [torch.ones(10_000_000) for _ in range(8)]
last = torch.ones(1000)
del held
before = _proportional_bytes(os.getpid())
give_back_freed_memory()
print(before - _proportional_bytes(os.getpid()))
"""


@linux
def test_what_was_kept_for_the_next_step_can_be_given_back():
    assert int(subprocess.check_output([sys.executable, "-c", KEPT])) > 250 * MB


# Watched in processes of their own: what other tests left in this one comes and goes as it likes.
BESIDE = """
import subprocess, sys, time
from nutshell.memory import TreeWatch
with TreeWatch() as alone:
    time.sleep(0.25)
command = [sys.executable, "-c", sys.argv[1]]
with (
    TreeWatch() as beside,
    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
):
    assert child.stdout.readline() == "ready\\n"
    time.sleep(0.25)
    child.communicate()
print(beside.peak_bytes - alone.peak_bytes)
"""
GIVEN_BACK = """
import time
from nutshell.memory import TreeWatch
with TreeWatch() as watch:
    held = b"x" * 200_000_000
    time.sleep(0.25)
    del held
    time.sleep(0.25)
with TreeWatch() as after:
    pass
print(watch.peak_bytes - after.peak_bytes)
"""


def watched(script, *arguments):
    """Run a script; give the bytes that it prints: by how much what it saw was raised."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@linux
@pytest.mark.parametrize("program", [CHILD, GRANDPARENT], ids=["child", "grandchild"])
def test_children_and_theirs_are_added(program):
    assert 75 * MB < watched(BESIDE, program) < 160 * MB


@linux
def test_memory_that_was_given_back_inside_the_block_counts():
    assert watched(GIVEN_BACK) > 150 * MB


@linux
def test_a_child_of_another_thread_is_found():
    thread = f"threading.Thread(target=exec, args=({BESIDE!r}, globals()))"
    assert 75 * MB < watched(f"import threading; thread = {thread}; thread.start(); thread.join()", CHILD) < 160 * MB


def test_a_system_that_does_not_tell_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    with TreeWatch() as watch:
        pass
    assert watch.peak_bytes is None


def test_a_process_that_ends_between_two_looks_counts_nothing(monkeypatch, tmp_path):
    own = tmp_path / str(os.getpid())
    (own / "task" / str(os.getpid())).mkdir(parents=True)
    (own / "task" / str(os.getpid()) / "children").write_text("99999 ")
    (own / "smaps_rollup").write_text("0-1 ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss: 7 kB\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    with TreeWatch() as watch:
        pass
    assert watch.peak_bytes == 7 * 1024


def test_the_thread_ends_with_the_block_also_after_an_error():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), TreeWatch():
        raise KeyboardInterrupt
    assert threading.active_count() == before
