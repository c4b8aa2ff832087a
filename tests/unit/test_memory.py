import mmap
import os
import subprocess
import sys
import threading
import time

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
    grown = peak_process_bytes()
    assert grown > len(held)
    del held
    assert peak_process_bytes() >= grown


def watch_beside(program):
    """Watch while a child that holds 80 MB waits; say by how much it raised what is seen."""
    with TreeWatch() as alone:
        time.sleep(0.25)
    command = [sys.executable, "-c", program]
    with (
        TreeWatch() as beside,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.25)
        child.communicate()
    return beside.peak_bytes - alone.peak_bytes


@linux
@pytest.mark.parametrize("program", [CHILD, GRANDPARENT], ids=["child", "grandchild"])
def test_children_and_theirs_are_added(program):
    assert 75 * MB < watch_beside(program) < 160 * MB


@linux
def test_memory_that_was_given_back_inside_the_block_counts():
    with TreeWatch() as watch:
        held = mmap.mmap(-1, 200 * MB)  # goes back whatever the C library keeps
        for start in range(0, len(held), mmap.PAGESIZE):
            held[start] = 1
        time.sleep(0.25)
        held.close()
        time.sleep(0.25)
    with TreeWatch() as after:
        pass
    assert watch.peak_bytes > after.peak_bytes + 150 * MB


@linux
def test_a_child_of_another_thread_is_found():
    found = []
    thread = threading.Thread(target=lambda: found.append(watch_beside(CHILD)))
    thread.start()
    thread.join()
    assert found[0] > 75 * MB


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
