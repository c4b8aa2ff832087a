"""Where the bytes of an artifact go: a row for each section and each part of the frame, and nothing left over."""

import math
from collections import Counter
from dataclasses import dataclass

from nutshell.artifact.container import Container

FRAME = "frame"


@dataclass(frozen=True)
class LedgerRow:
    """One named part of the file; `num_values` is 0 for the frame, which holds no array."""

    name: str
    kind: str
    num_bytes: int
    num_values: int

    @property
    def bits_per_value(self) -> float | None:
        """Stored bits for each element of the array; None without elements."""
        return 8 * self.num_bytes / self.num_values if self.num_values else None


@dataclass(frozen=True)
class Ledger:
    """Every byte of an artifact, by name; the rows add up to the file by construction and by assertion."""

    rows: tuple[LedgerRow, ...]
    total_bytes: int

    def bytes_by_kind(self) -> dict[str, int]:
        """Total the rows by kind, largest first."""
        totals = Counter[str]()
        for row in self.rows:
            totals[row.kind] += row.num_bytes
        return dict(totals.most_common())


def build_ledger(container: Container, total_bytes: int) -> Ledger:
    """Account for every byte of a file of `total_bytes` that holds `container`."""
    parts = [(name, FRAME, num_bytes, 0) for name, num_bytes in container.frame_bytes.items()]
    parts += [
        (section.name, section.kind, len(section.payload), math.prod(section.shape))
        for section in container.sections.values()
    ]
    rows = tuple(LedgerRow(*part) for part in parts)
    assert sum(row.num_bytes for row in rows) == total_bytes, "a byte of the artifact belongs to no section"
    return Ledger(rows, total_bytes)
