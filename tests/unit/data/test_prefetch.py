import threading
import time

import numpy as np
import pytest

from nutshell.data.loading.config import RingConfig
from nutshell.data.loading.loader import build_loader
from nutshell.data.loading.prefetch import Prefetched
from nutshell.data.shards import TokenStream
from nutshell.errors import DataError

SIZES = {"batch_size": 3, "seq_len": 10}


class Recording:
    """A loader that remembers who asked for what, and fails where it is told to."""

    def __init__(self, fails_at=None):
        self.asked, self.threads, self.fails_at = [], set(), fails_at

    def batch(self, position, *, batch_size, seq_len, rows=slice(None)):
        self.asked.append((position, batch_size, seq_len, rows))
        self.threads.add(threading.current_thread())
        if position == self.fails_at:
            raise DataError(f"no batch at {position}")
        return position, seq_len

    def wait_for(self, count):
        end = time.monotonic() + 30
        while len(self.asked) < count and time.monotonic() < end:
            time.sleep(0.001)
        return [position for position, *_ in self.asked]


def real_loader():
    return build_loader(RingConfig(), TokenStream([np.arange(1000, dtype=np.uint16)]), bos_id=1, seed=0)


def test_batches_are_those_of_the_loader_in_any_order_and_size():
    requests = [(0, 3, 10, slice(None)), (30, 3, 10, slice(None)), (60, 3, 10, slice(1, 2)), (60, 3, 10, slice(2, 3)),
                (90, 2, 20, slice(None)), (500, 1, 7, slice(None)), (0, 3, 10, slice(None))]  # fmt: skip
    with Prefetched(real_loader()) as prefetched:
        for position, batch_size, seq_len, rows in requests:
            found = prefetched.batch(position, batch_size=batch_size, seq_len=seq_len, rows=rows)
            expected = real_loader().batch(position, batch_size=batch_size, seq_len=seq_len, rows=rows)
            np.testing.assert_array_equal(found, expected)


def test_the_next_batch_is_cut_before_it_is_asked_for_and_only_once():
    loader = Recording()
    with Prefetched(loader) as prefetched:
        prefetched.batch(0, **SIZES, rows=slice(1, 2))
        assert loader.wait_for(2) == [0, 30], "asked for once, and its successor guessed"
        assert prefetched.batch(30, **SIZES, rows=slice(1, 2)) == (30, 10)
        assert loader.wait_for(3) == [0, 30, 60]
        assert {rows for *_, rows in map(repr_rows, loader.asked)} == {"slice(1, 2, None)"}
    assert threading.main_thread() not in loader.threads


def repr_rows(request):
    *rest, rows = request
    return *rest, repr(rows)


def test_other_rows_are_another_request():
    loader = Recording()
    with Prefetched(loader) as prefetched:
        prefetched.batch(0, **SIZES, rows=slice(0, 1))
        prefetched.batch(30, **SIZES, rows=slice(1, 2))
    assert [(position, repr(rows)) for position, _, _, rows in loader.asked[1:3]] == [
        (30, "slice(0, 1, None)"),
        (30, "slice(1, 2, None)"),
    ]


def test_an_error_of_the_thread_is_raised_where_its_batch_is_asked_for():
    loader = Recording(fails_at=30)
    with Prefetched(loader) as prefetched:
        assert prefetched.batch(0, **SIZES) == (0, 10)
        loader.wait_for(2)
        assert prefetched.batch(90, **SIZES) == (90, 10), "nobody asked for the batch that failed"
        with pytest.raises(DataError, match="no batch at 30"):
            prefetched.batch(30, **SIZES)
        loader.fails_at = None
        assert prefetched.batch(30, **SIZES) == (30, 10), "an error is raised once, then it is tried again"


def test_a_failing_guess_is_raised_when_it_comes_true():
    loader = Recording(fails_at=30)
    with Prefetched(loader) as prefetched:
        prefetched.batch(0, **SIZES)
        with pytest.raises(DataError, match="no batch at 30"):
            prefetched.batch(30, **SIZES)
        loader.fails_at = None
        assert prefetched.batch(30, **SIZES) == (30, 10), "the next try is a new one"
    assert [position for position, *_ in loader.asked][:3] == [0, 30, 30], "the guess itself failed"


def test_a_text_too_short_says_so_to_the_caller():
    with Prefetched(real_loader()) as prefetched, pytest.raises(DataError, match="1,000 tokens, too few"):
        prefetched.batch(0, batch_size=1, seq_len=1000)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_leaving_ends_the_thread(error):
    loader = Recording()
    try:
        with Prefetched(loader) as prefetched:
            prefetched.batch(0, **SIZES)
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert not any(thread.is_alive() for thread in loader.threads)
    with pytest.raises(RuntimeError, match="after shutdown"):
        prefetched.batch(0, **SIZES)
