"""Pieces of a proof coded side by side: a process each, whose arithmetic has as many threads as the layout says.

One token at a time gives a processor too little to share: two processes of one thread are nearly twice as fast as one
of two. Since threads are part of the layout, a proof does not depend on how many processors a machine has.
"""

import contextlib
import multiprocessing
import queue
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Self

import msgspec
import torch

from nutshell.artifact.load import Loaded
from nutshell.errors import ProofError
from nutshell.machine import num_threads
from nutshell.memory import keep_freed_memory
from nutshell.pipeline import store
from nutshell.pipeline.strategies import as_scored
from nutshell.score.layout import Layout
from nutshell.score.predictor import OnlinePredictor
from nutshell.score.prove import CoderHere, DocumentTokens
from nutshell.score.walk import Advance, Decoded, decode, encode

# Tokens that a process codes before it says so, and seconds between two looks at what was said.
_REPORTED = 64
_PATIENCE = 0.1


class ArtifactCoder(contextlib.ExitStack):
    """Codes with the model of an artifact: in processes of its own, if there is more than one piece.

    Raises, as it begins to code:
        ProofError: torch cannot compute with as many threads as the layout says.
    """

    def __init__(self, artifact: Path, loaded: Loaded) -> None:
        super().__init__()
        self._artifact, self._loaded = artifact, loaded
        self._pool: _Pool | None = None

    def encode(
        self, layout: Layout, pieces: Mapping[int, DocumentTokens], advance: Advance
    ) -> Iterator[tuple[int, bytes]]:
        """Code the documents of each piece."""
        if pool := self._pool_for(layout):
            return pool.run(_encode, pieces, advance)
        return self._here(layout).encode(layout, pieces, advance)

    def decode(self, layout: Layout, pieces: Mapping[int, bytes], advance: Advance) -> Iterator[tuple[int, Decoded]]:
        """Read the bits of each piece."""
        if pool := self._pool_for(layout):
            return pool.run(_decode, pieces, advance)
        return self._here(layout).decode(layout, pieces, advance)

    def _here(self, layout: Layout) -> CoderHere:
        _compute_with(layout.threads)
        return CoderHere(lambda layout: online_predictor(self._loaded, layout))

    def _pool_for(self, layout: Layout) -> "_Pool | None":
        size = min(num_threads(), len(layout.pieces))
        if size > 1 and self._pool is None:
            self._pool = self.enter_context(_Pool(size, self._artifact, layout))
        return self._pool


def online_predictor(loaded: Loaded, layout: Layout) -> OnlinePredictor:
    """Make what a layout's strategy predicts with."""
    return as_scored(layout.strategy).online(loaded, layout.tokens)


class _Pool:
    """Processes that open the artifact and wait for pieces."""

    def __init__(self, size: int, artifact: Path, layout: Layout) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads, which are gone
        self._done: Queue[int] = context.Queue()
        setting = (str(artifact), msgspec.json.encode(layout), self._done)
        self._pool = ProcessPoolExecutor(size, mp_context=context, initializer=_start, initargs=setting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, also in the middle of a piece that nobody wants any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()

    def run(self, work: Callable[[int, Any], Any], pieces: Mapping[int, Any], advance: Advance) -> Iterator[Any]:
        """Do a piece of work for each, the first ones first; yield number and result as they come."""
        running = {self._pool.submit(work, number, piece): number for number, piece in pieces.items()}
        while running:
            ended, _ = wait(running, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
            self._drain(advance)
            for future in ended:
                yield running.pop(future), _result(future)
        self._drain(advance)

    def _drain(self, advance: Advance) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                advance(self._done.get_nowait())


def _result(future: "Future[Any]") -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise ProofError("a process that coded ended without a word: it may have run out of memory") from error


_here: dict[str, Any] = {}
"""What a process of the pool codes with."""


def _start(artifact: str, layout: bytes, done: "Queue[int]") -> None:
    """Get a process of the pool ready."""
    _here["layout"] = msgspec.json.decode(layout, type=Layout)
    _here["done"] = done
    keep_freed_memory()
    _compute_with(_here["layout"].threads)
    _, _here["loaded"] = store.open_artifact(Path(artifact))


def _encode(number: int, tokens: DocumentTokens) -> bytes:
    layout = _here["layout"]
    with _Reporting() as advance:
        return encode(online_predictor(_here["loaded"], layout), layout, layout.batches()[number], tokens, advance)


def _decode(number: int, bits: bytes) -> Decoded:
    layout = _here["layout"]
    with _Reporting() as advance:
        return decode(online_predictor(_here["loaded"], layout), layout, layout.batches()[number], bits, advance)


class _Reporting:
    """Collects what is done, and says it now and then."""

    def __enter__(self) -> Advance:
        self._unsaid = 0
        return self._advance

    def __exit__(self, *_: object) -> None:
        _here["done"].put(self._unsaid)

    def _advance(self, more: int) -> None:
        self._unsaid += more
        if self._unsaid >= _REPORTED:
            _here["done"].put(self._unsaid)
            self._unsaid = 0


def _compute_with(threads: int) -> None:
    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise ProofError(f"the proof was computed with {threads} threads, of which torch has {torch.get_num_threads()}")
