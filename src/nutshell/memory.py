"""How much memory a run takes: this process at its peak, and all that it starts while a block runs."""

import contextlib
import ctypes
import os
import resource
import sys
import threading
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_SAMPLE_SECONDS = 0.1
# glibc's malloc.h: M_MMAP_THRESHOLD, what is larger gets a mapping of its own; M_TRIM_THRESHOLD, how much freed memory
# at the end of the heap is kept; M_TOP_PAD, by how much more than asked it grows.
_KEEP_FREED = ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**26))


def peak_process_bytes() -> int:
    """Say how much memory this process has had resident at its peak, by the kernel's count; without its children.

    Where there is a /proc, from there: `getrusage` lends a process the peak of the one that started it.
    """
    words = _words(_PROC / "self/status")
    if "VmHWM:" in words:
        return 1024 * int(words[words.index("VmHWM:") + 1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next step, instead of giving it back; say whether it can.

    A training step allocates the same large tensors again and again. By default glibc maps each of them anew, and the
    kernel clears every page of it. Only glibc has the switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(parameter, value) for parameter, value in _KEEP_FREED)


def give_back_freed_memory() -> None:
    """Give the system what `keep_freed_memory` has kept, for what comes after a training needs it elsewhere."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class TreeWatch:
    """Adds up the memory of this process and all its descendants, ten times a second, while a block runs.

    The kernel keeps no such peak: `RUSAGE_CHILDREN` is that of the largest child alone, and lends a child its parent's
    until it runs its own program. Added up is the proportional set size (PSS), in which each of n processes that share
    a page has 1/n of it. What comes and goes between two looks is missed.

    Attributes:
        peak_bytes: The largest sum so far; None where the system does not tell.
    """

    def __init__(self) -> None:
        self.peak_bytes: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            now = tree_bytes(os.getpid())
            if now is None:
                return
            self.peak_bytes = max(now, self.peak_bytes or 0)
            if self._ended.wait(_SAMPLE_SECONDS):
                return


def tree_bytes(pid: int) -> int | None:
    """Add up a process and its descendants as they are now; None where the system does not tell of them."""
    if not (_PROC / f"{pid}/smaps_rollup").exists() or not (_PROC / f"{pid}/task/{pid}/children").exists():
        return None
    pids = [pid]
    for pid in pids:  # grows while it is walked
        pids += _children(pid)
    return sum(map(_proportional_bytes, pids))


def _children(pid: int) -> list[int]:
    """List the processes that a process has started and not yet waited for; none if it has ended itself."""
    with contextlib.suppress(OSError):
        return [int(child) for task in (_PROC / f"{pid}/task").iterdir() for child in _words(task / "children")]
    return []


def _proportional_bytes(pid: int) -> int:
    words = _words(_PROC / f"{pid}/smaps_rollup")
    return 1024 * int(words[words.index("Pss:") + 1]) if "Pss:" in words else 0


def _words(path: Path) -> list[str]:
    """Read a file of /proc; empty if its process has ended."""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8").split()
    return []
