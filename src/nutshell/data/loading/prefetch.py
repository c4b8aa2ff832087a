"""The next batch, cut by a thread while the present one is trained on."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from nutshell.data.loading.loader import Batch, Loader


class _Request(NamedTuple):
    position: int
    batch_size: int
    seq_len: int
    rows: tuple[int | None, int | None, int | None]  # a slice, which Python 3.11 cannot compare by hash

    @property
    def following(self) -> "_Request":
        """What is asked next, unless sizes change."""
        return self._replace(position=self.position + self.batch_size * self.seq_len)


class Prefetched:
    """A loader that guesses the next request; a wrong guess costs time and nothing else.

    One thread does all the reading, so the loader itself needs no lock. Its errors are raised where the batch is asked
    for, and only there. Use it as a context: leaving it waits for the batch that is being cut.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._guess: _Request | None = None
        self._coming: Future[Batch] | None = None

    def batch(self, position: int, *, batch_size: int, seq_len: int, rows: slice = slice(None)) -> Batch:
        """Give what `Loader.batch` gives.

        Raises:
            DataError: as `Loader.batch` does.
        """
        request = _Request(position, batch_size, seq_len, (rows.start, rows.stop, rows.step))
        coming = self._coming if self._coming and request == self._guess else self._ask(request)
        self._coming = None  # an error that is raised here must not meet the next caller
        batch = coming.result()
        self._guess = request.following
        self._coming = self._ask(self._guess)
        return batch

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _ask(self, request: _Request) -> Future[Batch]:
        position, batch_size, seq_len, rows = request
        return self._thread.submit(
            self._loader.batch, position, batch_size=batch_size, seq_len=seq_len, rows=slice(*rows)
        )
