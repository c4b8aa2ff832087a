"""Files of JSON rows that grow with a training: `metrics.jsonl` and `probes.jsonl`."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

import msgspec

from nutshell.files import write_bytes
from nutshell.units import bits_per_byte


class RowLog:
    """Rows that name their `step`, flushed as they come; those that a resumed run will write again are dropped.

    A number that is not finite is written as null.

    Args:
        path: the file.
        num_done: steps that the resumed checkpoint has behind it; 0 for a new run.

    Attributes:
        last_step: the step of the last row that was kept; 0 where there is none.
    """

    def __init__(self, path: Path, *, num_done: int) -> None:
        lines = _lines(path) if num_done else []
        steps = [int(msgspec.json.decode(line)["step"]) for line in lines]
        kept = [line for line, step in zip(lines, steps, strict=True) if step <= num_done]
        write_bytes(path, b"".join(kept))
        self.last_step = max((step for step in steps if step <= num_done), default=0)
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file
        self._file.close()

    def write(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Append a row, and return it."""
        assert self._file
        self._file.write(msgspec.json.encode(row) + b"\n")
        self._file.flush()
        return dict(row)


class MetricsLog(RowLog):
    """The rows of `metrics.jsonl`, one a step.

    Args:
        path: the file.
        bytes_per_token: of the training text, for the estimate of bits per byte.
        num_done: as above.
    """

    def __init__(self, path: Path, bytes_per_token: float, *, num_done: int) -> None:
        super().__init__(path, num_done=num_done)
        self._bytes_per_token = bytes_per_token

    def write(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Add the bits-per-byte estimate to a row, append it, and return it."""
        return super().write({**row, "bpb": bits_per_byte(row["loss"], 1) / self._bytes_per_token})


def _lines(path: Path) -> list[bytes]:
    """Read whole lines; one that a crash cut short is not a row."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
