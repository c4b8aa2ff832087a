"""Pieces that processes code side by side are the pieces that one process codes."""

import numpy as np
import pytest

from artifact_samples import whole_model
from nutshell.artifact.load import load
from nutshell.errors import ProofError
from nutshell.pipeline import coding
from nutshell.pipeline.coding import ArtifactCoder
from nutshell.score.layout import Layout, Shape
from nutshell.score.ledger import Strategy
from nutshell.score.text import Documents
from nutshell.score.windows import WindowPlan


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    path = tmp_path_factory.mktemp("coding") / "model.nut"
    path.write_bytes(whole_model())
    return path


@pytest.fixture(scope="module")
def loaded(artifact):
    return load(artifact.read_bytes(), where="sample")


@pytest.fixture
def documents(loaded):
    generator = np.random.default_rng(0)
    tokens = [generator.integers(0, loaded.tokenizer.vocab_size, length) for length in (50, 40, 9, 3)]
    tokens = [own[own != loaded.tokenizer.bos_id] for own in tokens]
    return Documents.of_text(tokens, loaded.tokenizer, sum(len(b"".join(loaded.tokenizer.pieces(t))) for t in tokens))


@pytest.fixture
def layout(loaded, documents):
    plan = WindowPlan(context=loaded.context, stride=max(1, loaded.context // 2))
    return Layout.of(documents, Strategy.of(plan, "document"), Shape(rows=2, piece_tokens=1))


def pieces_of(layout, documents):
    return {
        number: {place: documents.tokens[place] for batch in piece for place in batch}
        for number, piece in enumerate(layout.batches())
    }


def test_processes_code_the_same_bits_and_read_them(artifact, loaded, documents, layout, monkeypatch):
    told = []
    pieces = pieces_of(layout, documents)
    assert len(pieces) == 2
    monkeypatch.setattr(coding, "num_threads", lambda: 2)
    with ArtifactCoder(artifact, loaded) as coder:
        beside = dict(coder.encode(layout, pieces, told.append))
        decoded = dict(coder.decode(layout, beside, told.append))
    assert sum(told) <= 2 * documents.num_targets  # what a queue has not handed over yet is missing
    monkeypatch.setattr(coding, "num_threads", lambda: 1)
    with ArtifactCoder(artifact, loaded) as coder:
        assert dict(coder.encode(layout, pieces, lambda _: None)) == beside
    for number, piece in pieces.items():
        assert decoded[number].fault == ""
        assert all(np.array_equal(decoded[number].tokens[place], own) for place, own in piece.items())


def test_what_a_process_says_of_a_fault_arrives(artifact, loaded, documents, layout, monkeypatch):
    monkeypatch.setattr(coding, "num_threads", lambda: 2)
    with ArtifactCoder(artifact, loaded) as coder:
        decoded = dict(coder.decode(layout, {0: b"abc", 1: b""}, lambda _: None))
        assert "not a multiple of four" in decoded[0].fault
    artifact.with_name("none.nut")
    with (
        ArtifactCoder(artifact.with_name("none.nut"), loaded) as coder,
        pytest.raises(ProofError, match="ended without"),
    ):
        list(coder.encode(layout, pieces_of(layout, documents), lambda _: None))
