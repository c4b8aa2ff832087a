"""Being asked to stop: Ctrl-C, or SIGTERM from whoever manages the machine, between two steps."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

import torch.distributed as dist

# A Ctrl-C may arrive twice: from the terminal, and a moment later from a program that heard it and passes it on.
ONE_REQUEST_SECONDS = 1.0


class Interrupted(KeyboardInterrupt):
    """Training was asked to end and did so between two steps; the checkpoint continues it."""


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn the first request to stop into a question the loop asks between steps; a second one stops at once.

    What comes within a second of the first is the same request, and is waited for before this ends. Under `torchrun`
    the second one is the launcher's whenever it comes, for a signal is not heard before a long operation is over.
    """
    first: float | None = None
    expected = 1 if dist.is_torchelastic_launched() else 0

    def note(signum: int, frame: object) -> None:
        nonlocal first, expected
        now = time.monotonic()
        if first is None:
            first = now
        elif expected:
            expected -= 1
        elif now - first > ONE_REQUEST_SECONDS:
            raise KeyboardInterrupt

    try:
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield lambda: False
        return
    try:
        yield lambda: first is not None
    finally:
        if first is not None:
            time.sleep(max(0.0, first + ONE_REQUEST_SECONDS - time.monotonic()))
        for number, handler in previous.items():
            signal.signal(number, handler)
