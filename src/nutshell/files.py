"""Files that are either whole or absent: atomic writes, and JSON with one canonical form.

A file is written under a temporary name in its own folder, flushed to the device, then renamed. A crash, Ctrl-C or a
full disk leaves the previous version untouched.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` only if the block ends without an error.

    Raises:
        OSError: the folder is missing or not writable, or the device is full; `path`, which it names, is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _open_new(temporary, path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _open_new(temporary: Path, path: Path) -> IO[bytes]:
    """Open the temporary file; what keeps it from being made is told of the file that was wanted."""
    try:
        return temporary.open("wb")
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, f"{error.strerror}: no folder '{path.parent}'", str(path)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_writer(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, keys in the order given, floats at full precision."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON; the message names the file.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def sha256_bytes(content: bytes) -> str:
    """Hash bytes; lower-case hex."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash a file without loading it whole; lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
