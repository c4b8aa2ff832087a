import random
import tracemalloc

import numpy as np
import pytest

import artifact_mutations
import codec_arrays
from nutshell.artifact import manifest
from nutshell.artifact.container import Section, pack_container


@pytest.fixture(scope="module")
def artifact():
    text = np.frombuffer(b"all work and no play makes jack a dull boy. " * 9, np.uint8)
    return pack_container(
        [
            Section.encode("a", "codes", array=codec_arrays.rows_of_many_widths()[:24], chain=("ans",)),
            Section.encode("b", "codes", array=codec_arrays.one_bell()[:8], chain=("ans",)),
            Section.encode("b", "scale", array=codec_arrays.scales(), chain=("shuffle", "brotli")),
            Section.encode("c", "constant", array=np.full((30, 30), 2, np.int8), chain=("ans",)),
            Section.encode("d", "float", array=codec_arrays.scales(), chain=("shuffle", "lzma")),
            Section.encode("e", "text", array=text, chain=("brotli",)),
            Section.encode("f", "raw", array=codec_arrays.scales(), chain=("raw",)),
        ],
        {"producer": "test"},
    )


def test_damage_never_does_more_than_raise_one_clear_line(artifact, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_DECODED_BYTES", 1 << 22)
    assert artifact_mutations.outcome(artifact) == "read"
    outcomes = {"damaged": [], "resealed": [], "rewritten": []}
    tracemalloc.start()
    try:
        for sort, mutant in artifact_mutations.mutants(artifact, random.Random(1), 250):
            result = artifact_mutations.outcome(mutant)
            if mutant != artifact:
                outcomes[sort].append(result)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 26
    assert "read" not in outcomes["damaged"]  # the digest sees every change
    for sort in ("resealed", "rewritten"):  # behind a correct digest each check must be met at least once
        assert len({message[10:30] for message in outcomes[sort]}) > 5, outcomes[sort]


def test_every_single_changed_byte_and_every_cut_is_noticed(artifact):
    for at in range(0, len(artifact), 7):
        changed = artifact[:at] + bytes([artifact[at] ^ 0x10]) + artifact[at + 1 :]
        assert artifact_mutations.outcome(changed) != "read"
        assert artifact_mutations.outcome(artifact[:at]) != "read"
    assert artifact_mutations.outcome(artifact + b"\0") != "read"
