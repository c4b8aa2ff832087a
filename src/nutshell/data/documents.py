"""Text files as documents: a document is bytes, and whatever they are, they survive.

A plain file is one document. A `.jsonl` file holds one document a line, in the field `text`. Either may be compressed
as `.gz`, `.xz` or `.zst`. A folder stands for every file below it, hidden ones apart, in the order of their paths.
"""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import zstandard

from nutshell.errors import DataError

_CHUNK_BYTES = 1 << 20
_DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, zstandard.ZstdError)


class TextFiles:
    """The documents of files and folders, read from the disk each time they are iterated over."""

    licence = ""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    @property
    def description(self) -> str:
        """Say where the text is from, without the folders above it."""
        return ", ".join(path.resolve().name for path in self.paths)

    def __iter__(self) -> Iterator[bytes]:
        """Read the documents.

        Raises:
            DataError: a path that is missing, unreadable, damaged, or a line that holds no text.
        """
        for path in self.paths:
            for file in _files_below(path):
                yield from read_documents(file)


def read_documents(path: Path) -> Iterator[bytes]:
    """Read the documents of one file, which its name says how to read.

    Raises:
        DataError: the file is missing, unreadable or damaged, or a line holds no text.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".xz", ".zst") else ""
    try:
        with _open(path, compression) as file:
            if suffixes and suffixes[-1] == ".jsonl":
                yield from parse_lines(file, path)
            else:
                yield file.read()
    except _DAMAGED as error:
        raise DataError(f"{path}: the {compression} file is damaged or cut short ({error}); copy it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Line(msgspec.Struct):
    text: str


def parse_lines(lines: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """Take the field `text` out of JSON lines; blank lines are skipped.

    Raises:
        DataError: a line that is no JSON object with a string `text`, named as file:line.
    """
    decoder = msgspec.json.Decoder(_Line)
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            yield decoder.decode(line).text.encode()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f'{path}:{number}: not a JSON object with a string field "text" ({error})') from error


def _files_below(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.is_file() and not hidden:
            yield file


def _open(path: Path, compression: str) -> io.BufferedReader:
    if compression == ".gz":
        return io.BufferedReader(gzip.GzipFile(path))
    if compression == ".xz":
        return io.BufferedReader(lzma.LZMAFile(path))
    if compression == ".zst":
        return io.BufferedReader(_ZstdFile(path))
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """Read Zstandard frames; zstandard's own reader takes a file that is cut short for a whole one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._in_frame = False
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._output:
            self._input = self._input or self._file.read(_CHUNK_BYTES)
            if not self._input:
                if self._in_frame:
                    raise EOFError("the last frame has no end")
                return 0
            self._output = memoryview(self._frame.decompress(self._input))
            self._in_frame = not self._frame.eof
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
