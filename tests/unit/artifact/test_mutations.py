"""Damaged and hostile artifacts: one clear line each, in time and memory that follow from the file's own size."""

import itertools
import json
import tracemalloc
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

import artifact_mutations
import artifact_samples
from nutshell.artifact.container import Section, unpack_container
from nutshell.artifact.load import load
from nutshell.codec.models import unsigned_bytes
from nutshell.errors import ArtifactError


@pytest.fixture(scope="module")
def artifact():
    return artifact_samples.all_coders()


@pytest.fixture(scope="module")
def whole():
    content = artifact_samples.whole_model()
    assert artifact_mutations.outcome(content) == "read"
    return content


def test_damage_never_does_more_than_raise_one_clear_line(artifact):
    assert artifact_mutations.outcome(artifact) == "read"
    outcomes = defaultdict(list)
    tracemalloc.start()
    try:
        for sort, mutant in artifact_mutations.mutants(artifact, seed=1, count=750):
            result = artifact_mutations.outcome(mutant)
            if mutant != artifact:
                outcomes[sort].append(result)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 27
    assert set(outcomes) == {"damaged", "resealed", "rewritten", "remodelled", "bomb"}
    assert "read" not in outcomes["damaged"]  # the digest sees every change
    for sort in ("resealed", "rewritten"):  # behind a correct digest each check must be met at least once
        assert len({message[10:30] for message in outcomes[sort]}) > 5, outcomes[sort]


def test_no_recipe_and_no_tokenizer_is_too_much(whole):
    outcomes = defaultdict(set)
    for sort, mutant in artifact_mutations.mutants(whole, seed=2, count=140):
        outcomes[sort].add(artifact_mutations.outcome(mutant))
    assert len(outcomes["reworded"]) > 5
    assert len(outcomes["respelt"]) > 2


def test_absurd_values_in_some_of_all_places(whole):
    makers = artifact_mutations.absurdities(whole)
    outcomes = defaultdict(set)
    for maker in itertools.islice(makers, 0, None, len(makers) // 80):
        sort, mutant = maker()
        outcomes[sort].add(artifact_mutations.outcome(mutant))
    assert set(outcomes) == {"absurd manifest", "absurd payload", "absurd recipe"}
    for sort, results in outcomes.items():
        assert len(results) > 2, sort


@pytest.mark.parametrize("text", ["(" * 3000, "0-99999999", "((0)x500)x500"])
def test_an_endless_schedule_is_one_clear_line(whole, text):
    with pytest.raises(ArtifactError, match="its recipe or tokenizer cannot be used"):
        load(reworded(whole, "0 (1)x2", text))


def test_every_single_changed_byte_and_every_cut_is_noticed(artifact):
    for at in range(0, len(artifact), 7):
        changed = artifact[:at] + bytes([artifact[at] ^ 0x10]) + artifact[at + 1 :]
        assert artifact_mutations.outcome(changed) != "read"
        assert artifact_mutations.outcome(artifact[:at]) != "read"
    assert artifact_mutations.outcome(artifact + b"\0") != "read"


def reworded(whole, old, new):
    recipe = artifact_mutations.read_section(whole, "recipe").decode()
    assert old in recipe
    return artifact_mutations.replace_section(whole, "recipe", recipe.replace(old, new).encode())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seq_len = 16", "seq_len = 0", "train.seq_len"),
        ("seq_len = 16", f"seq_len = {2**17 + 1}", "train.seq_len"),
        ("seq_len = 16", "seq_len = 7", "stride 8 is longer than its windows of 7"),
        ("stride = 8", "stride = 0", "score.stride"),
        ('windows = "sliding"', 'windows = "ajar"', "score.windows"),
        ("vocab_size = 300", "vocab_size = nan", "no finite number"),
        ("vocab_size = 300", "vocab_size = 0x" + "f" * 9000, "more than 64 bits"),
        ("vocab_size = 300", "vocab_size = " + "9" * 5000, "cannot be used"),
        ("vocab_size = 300", "vocab_size = 301", "300 tokens, its recipe 301"),
        ("vocab_size = 300", 'vocab_size = 300\n"\\u0000\\u202e\\n" = 1', "unknown key"),
        ("[model]", "a = " + "[" * 8000 + "\n[model]", "cannot be used"),
        ("[model]", ".".join("a" * 6000) + " = 1\n[model]", "cannot be used"),
        ("[model]", "#" * (1 << 14) + "\n[model]", "over 16384"),
        ("[model]", "\0[model]", "cannot be used"),
    ],
)
def test_a_recipe_beyond_reason_is_one_clear_line(whole, old, new, message):
    assert message in artifact_mutations.outcome(reworded(whole, old, new))


def test_a_recipe_from_before_windows_rolled_is_read(whole):
    older = reworded(whole, 'windows = "sliding"\n', "")
    assert artifact_mutations.outcome(older) == "read"
    assert load(older).windows == "sliding"
    assert load(reworded(whole, "sliding", "rolling")).windows == "rolling"


def with_tokenizer(whole, kind, model):
    """Store another tokenizer, of which a few bytes make megabytes."""
    array = np.frombuffer(model, np.uint8)
    hostile = artifact_mutations.replace_section(whole, "tokenizer", b"")  # of the other kind: left out, or replaced
    return artifact_mutations.put_section(hostile, Section.encode("tokenizer", kind, array=array, chain=("lzma",)))


MANY = unsigned_bytes(1 << 16)


MANY = unsigned_bytes(1 << 16)


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        ("pieces", unsigned_bytes(70_000) + b"\1", "70000 pieces"),
        ("pieces", MANY + b"\1" + MANY + (b"\1" * 60 + b"\0") * (1 << 16), "cannot be used"),
        ("pieces", MANY + b"\6" + MANY, "cannot be used"),
        ("pieces", b"\1\6\1", "cannot be used"),
        ("pieces", unsigned_bytes(300) + b"\1", "cut short"),
        ("pieces", bytes((1 << 22) + 1), "over 4194304"),
        ("tokenizer", bytes((1 << 22) + 1), "over 4194304"),
    ],
)
def test_a_tokenizer_beyond_reason_is_one_clear_line(whole, kind, model, message):
    assert message in artifact_mutations.outcome(with_tokenizer(whole, kind, model))


@pytest.mark.parametrize("kind", ["scale", "float", "lqer_left_scale", "lqer_right_scale"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(whole, kind, value):
    section = next(each for each in unpack_container(whole).sections.values() if each.kind == kind)
    array = section.decode()
    array.flat[-1] = value
    hostile = artifact_mutations.put_section(whole, Section.encode(section.name, kind, array=array, chain=("raw",)))
    assert artifact_mutations.outcome(hostile) == f"artifact: weight '{section.name}' has values that are not finite"


def test_the_largest_weights_that_a_file_can_spell_give_a_model_or_one_clear_line(whole):
    hostile = whole
    for section in unpack_container(whole).sections.values():
        if section.kind in ("scale", "columns", "float"):
            array = np.full_like(section.decode(), 127 if section.kind == "columns" else 65504)
            hostile = artifact_mutations.put_section(
                hostile, Section.encode(section.name, section.kind, array=array, chain=("brotli",))
            )
    result = artifact_mutations.outcome(hostile)
    assert result == "read" or result.endswith("its values are not finite")


def matrix(whole):
    return next(each for each in unpack_container(whole).sections.values() if each.kind == "codes")


def test_what_belongs_to_no_weight_is_one_printable_line(whole):
    stray = Section("x'\"", "z", "int8", (1,), ("raw",), b"a")
    assert "belongs to no weight" in artifact_mutations.outcome(artifact_mutations.put_section(whole, stray))
    for name in ("x\ny", "x\n", "\u202ex", "\0"):
        hostile = artifact_mutations.put_section(whole, replace(stray, name=name))
        assert "manifest cannot be read" in artifact_mutations.outcome(hostile)


@pytest.mark.parametrize(
    "chain",
    [
        ("sort_rows",) * 7 + ("brotli",),
        ("bitplanes", "bitplanes", "zstd"),
        ("a" * 200,) * 8,
        ("zstd",) * 8,
        ("sort_rows", "bitplanes", "shuffle", "bits", "transpose", "lzma"),
    ],
)
def test_no_chain_makes_more_of_a_section_than_it_holds(whole, chain):
    hostile = artifact_mutations.put_section(whole, replace(matrix(whole), chain=chain))
    tracemalloc.start()
    try:
        assert artifact_mutations.outcome(hostile) != "read"
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_ten_thousand_sections_are_too_many():
    entries = [[f"{number:05}", "k", "int8", [0], ["raw"], 0] for number in range(10_000)]
    content = artifact_mutations.close_frame(json.dumps({"metadata": {}, "sections": entries}).encode(), b"")
    assert "10000 sections" in artifact_mutations.outcome(content)
