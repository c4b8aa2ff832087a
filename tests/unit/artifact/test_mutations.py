import random
import tracemalloc
from collections import defaultdict

import pytest

import artifact_mutations
import artifact_samples
from nutshell.artifact import manifest
from nutshell.artifact.load import load
from nutshell.errors import ArtifactError


@pytest.fixture(scope="module")
def artifact():
    return artifact_samples.all_coders()


def test_damage_never_does_more_than_raise_one_clear_line(artifact, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_DECODED_BYTES", 1 << 22)
    assert artifact_mutations.outcome(artifact) == "read"
    outcomes = defaultdict(list)
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
    assert set(outcomes) == {"damaged", "resealed", "rewritten", "bomb"}
    assert "read" not in outcomes["damaged"]  # the digest sees every change
    for sort in ("resealed", "rewritten"):  # behind a correct digest each check must be met at least once
        assert len({message[10:30] for message in outcomes[sort]}) > 5, outcomes[sort]


def test_no_recipe_and_no_tokenizer_is_too_much(monkeypatch):
    monkeypatch.setattr(manifest, "MAX_DECODED_BYTES", 1 << 22)
    whole = artifact_samples.whole_model()
    assert artifact_mutations.outcome(whole) == "read"
    outcomes = defaultdict(set)
    for sort, mutant in artifact_mutations.mutants(whole, random.Random(2), 40):
        outcomes[sort].add(artifact_mutations.outcome(mutant))
    assert len(outcomes["reworded"]) > 5
    assert len(outcomes["respelt"]) > 2


@pytest.mark.parametrize("text", ["(" * 3000, "0-99999999", "((0)x500)x500"])
def test_an_endless_schedule_is_one_clear_line(text):
    whole = artifact_samples.whole_model()
    recipe = artifact_mutations.read_section(whole, "recipe").decode().replace("0 (1)x2", text)
    hostile = artifact_mutations.replace_section(whole, "recipe", recipe.encode())
    with pytest.raises(ArtifactError, match="its recipe or tokenizer cannot be used"):
        load(hostile)


def test_every_single_changed_byte_and_every_cut_is_noticed(artifact):
    for at in range(0, len(artifact), 7):
        changed = artifact[:at] + bytes([artifact[at] ^ 0x10]) + artifact[at + 1 :]
        assert artifact_mutations.outcome(changed) != "read"
        assert artifact_mutations.outcome(artifact[:at]) != "read"
    assert artifact_mutations.outcome(artifact + b"\0") != "read"
