import numpy as np
import pytest

from nutshell.artifact.container import Section, pack_container, unpack_container
from nutshell.artifact.ledger import build_ledger


@pytest.fixture
def content():
    return pack_container(
        [
            Section.encode("w", "codes", array=np.arange(60, dtype=np.int8).reshape(6, 10), chain=("raw",)),
            Section.encode("w", "scale", array=np.ones(6, np.float16), chain=("raw",)),
            Section.encode("v", "scale", array=np.zeros(0, np.float16), chain=("raw",)),
        ],
        {"recipe": "x"},
    )


def test_every_byte_has_a_row(content):
    ledger = build_ledger(unpack_container(content), len(content))
    rows = {(row.name, row.kind): row for row in ledger.rows}
    assert sum(row.num_bytes for row in ledger.rows) == ledger.total_bytes == len(content)
    assert rows["w", "codes"].num_bytes == 60
    assert rows["w", "codes"].bits_per_value == 8
    assert rows["w", "scale"].bits_per_value == 16
    assert rows["v", "scale"].bits_per_value is None
    assert rows["manifest", "frame"].bits_per_value is None
    assert rows["digest", "frame"].num_bytes == 16


def test_totals_by_kind_are_sorted_and_complete(content):
    ledger = build_ledger(unpack_container(content), len(content))
    totals = ledger.bytes_by_kind()
    assert totals == {"codes": 60, "scale": 12, "frame": len(content) - 72}
    assert list(totals.values()) == sorted(totals.values(), reverse=True)


def test_an_unaccounted_byte_is_an_error(content):
    with pytest.raises(AssertionError, match="belongs to no section"):
        build_ledger(unpack_container(content), len(content) + 1)
