"""A predictor that is another program: asked and told over its standard input and output (docs/predictor-protocol.md).

It is never sent a token before it has answered with its distribution for it, so that whatever it is written in, it
cannot look ahead. What it sends is not trusted: lengths are bounded, answers have a deadline, and every way of not
keeping to the protocol is a `PredictorError` of one line.
"""

import contextlib
import os
import select
import shlex
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import IO, NamedTuple, Self

import numpy as np
from jaxtyping import Float32, Int, Int64

from nutshell.errors import PredictorError
from nutshell.printable import show_controls

VERSION = 1
MOST_VOCABULARY = 1 << 20
"""No vocabulary is larger: an answer is bounded before it is read."""

_LENGTH = struct.Struct("<I")
_HELLO = struct.Struct("<8sHIIB")
_MAGIC = b"NUTSHELL"
_TOKEN = struct.Struct("<I")
_MOST_COMPLAINT = 4_096

Read = Callable[[int], bytes]
"""Give at most so many bytes, at least one; none at the end. Raises `PredictorError` past a deadline."""


class Hello(NamedTuple):
    """What a predictor says of itself.

    Attributes:
        vocab_size: Number of tokens.
        bos_id: The token that ends a document.
        independent: Whether it forgets everything at the beginning of a document.
    """

    vocab_size: int
    bos_id: int
    independent: bool


class PipePredictor:
    """An online predictor in a process of its own, one document at a time. A context manager: it ends the process.

    Args:
        command: The program and its arguments, as a shell would split them; no shell runs.
        timeout: Most seconds for an answer.

    Raises:
        PredictorError: it cannot be started, or does not say hello.
    """

    in_order = True

    def __init__(self, command: str, *, timeout: float = 60.0) -> None:
        self._timeout = timeout
        self._process, self._errors = _start(command)
        try:
            self.hello = parse_hello(*self._receive())
        except BaseException:
            self.close()
            raise
        self.vocab_size, self.bos_id = self.hello.vocab_size, self.hello.bos_id
        self._unsent = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and all that it started."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in filter(None, (self._process.stdin, self._process.stdout, self._errors)):
            with contextlib.suppress(OSError):
                stream.close()

    def begin(self, rows: int) -> None:
        """Start a document."""
        assert rows == 1, "a program reads one document at a time"
        self._unsent += message(b"B")

    def predict(self) -> Float32[np.ndarray, "1 V"]:
        """Ask for the log-probabilities of the next token."""
        self._send(self._unsent + message(b"P"))
        self._unsent = b""
        return parse_answer(*self._receive(), self.vocab_size)[None]

    def tell(self, tokens: Int64[np.ndarray, " 1"]) -> None:
        """Say which token came; it is sent with the next question."""
        self._unsent += message(b"T", _TOKEN.pack(int(tokens[0])))

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Keep the only document."""

    def _send(self, content: bytes) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except OSError as error:
            kind, content = self._receive()  # it may have said why before it ended
            if kind == b"E":
                _check_kind(kind, b"L", content)
            raise PredictorError(self._why_ended()) from error

    def _receive(self) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + self._timeout
        return receive(lambda number: self._read(number, deadline), self._why_ended)

    def _read(self, number: int, deadline: float) -> bytes:
        assert self._process.stdout
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
            raise PredictorError(f"the predictor has not answered within {self._timeout:g} s")
        return os.read(self._process.stdout.fileno(), number)

    def _why_ended(self) -> str:
        """Say how the process ended, with the last line that it wrote to standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _MOST_COMPLAINT))
        lines = self._errors.read().decode("utf-8", errors="replace").split("\n")
        said = next((f": {show_controls(line.strip())}" for line in reversed(lines) if line.strip()), "")
        status = self._process.returncode
        return f"the predictor ended by itself (status {'unknown' if status is None else status}){said}"


def _start(command: str) -> tuple["subprocess.Popen[bytes]", IO[bytes]]:
    """Start a program; give it, and the file that its complaints go to."""
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise PredictorError(f"--command {command}: not a command line ({error})") from error
    if not arguments:
        raise PredictorError("--command: no program is named")
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # so that it can be ended with all that it starts
        )
    except OSError as error:
        errors.close()
        raise PredictorError(f"--command {arguments[0]}: cannot start it ({error.strerror})") from error
    return process, errors


def message(kind: bytes, content: bytes = b"") -> bytes:
    """Make a message: its length, its kind and its content."""
    return _LENGTH.pack(1 + len(content)) + kind + content


def receive(read: Read, why_ended: Callable[[], str] = lambda: "the predictor ended by itself") -> tuple[bytes, bytes]:
    """Read one message; give its kind and its content.

    Raises:
        PredictorError: it ends too early or is longer than any can be.
    """
    (length,) = _LENGTH.unpack(_exactly(read, _LENGTH.size, why_ended))
    if not 1 <= length <= 1 + 4 * MOST_VOCABULARY:
        raise PredictorError(f"the predictor sent a message of {length} bytes, which none has")
    content = _exactly(read, length, why_ended)
    return content[:1], content[1:]


def _exactly(read: Read, number: int, why_ended: Callable[[], str]) -> bytes:
    found = bytearray()
    while len(found) < number:
        more = read(number - len(found))
        if not more:
            raise PredictorError(why_ended())
        found += more
    return bytes(found)


def parse_hello(kind: bytes, content: bytes) -> Hello:
    """Take the first message apart.

    Raises:
        PredictorError: it is none, of another version, or of a vocabulary that cannot be.
    """
    _check_kind(kind, b"H", content)
    if len(content) != _HELLO.size:
        raise PredictorError(f"the predictor's hello has {len(content)} bytes instead of {_HELLO.size}")
    magic, version, vocab_size, bos_id, independent = _HELLO.unpack(content)
    if magic != _MAGIC or version != VERSION:
        raise PredictorError(f"the predictor does not speak version {VERSION} of the protocol")
    if not (2 <= vocab_size <= MOST_VOCABULARY and bos_id < vocab_size):
        raise PredictorError(f"the predictor names BOS {bos_id} of {vocab_size} tokens, which cannot be")
    if independent > 1:
        raise PredictorError(f"the predictor says {independent} of whether documents are independent, not 0 or 1")
    return Hello(vocab_size, bos_id, bool(independent))


def parse_answer(kind: bytes, content: bytes, vocab_size: int) -> Float32[np.ndarray, " V"]:
    """Take an answer apart; that it is a distribution is for whoever uses it to check.

    Raises:
        PredictorError: it is none, or of another length.
    """
    _check_kind(kind, b"L", content)
    if len(content) != 4 * vocab_size:
        raise PredictorError(
            f"the predictor answered with {len(content)} bytes instead of {4 * vocab_size}, 4 for each token"
        )
    return np.frombuffer(content, "<f4").astype(np.float32)


def _check_kind(kind: bytes, wanted: bytes, content: bytes) -> None:
    if kind == b"E":
        said = show_controls(content[:_MOST_COMPLAINT].decode("utf-8", errors="replace"))
        raise PredictorError(f"the predictor gave up: {said}")
    if kind != wanted:
        raise PredictorError(f"the predictor sent a message of kind {kind!r} where {wanted!r} was due")
