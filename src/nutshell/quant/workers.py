"""Independent pieces of work on all processors, with the results in the order of the pieces.

Every piece runs on one thread of torch, so that sums are taken in the same order however many processors there are.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

from nutshell.machine import num_threads

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Sequence[T], *, workers: int | None = None) -> list[R]:
    """Do the same work on each item; `workers` at a time, one for each processor unless given.

    An error of any piece is raised, that of the first item if there are several.
    """
    before = torch.get_num_threads()
    size = num_threads() if workers is None else workers
    with ThreadPoolExecutor(size, initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            torch.set_num_threads(before)
