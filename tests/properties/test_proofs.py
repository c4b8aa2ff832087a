"""For any documents, context, stride and batch: the proof decodes, and its length is the ledger's claim."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nutshell.score.frozen import score_documents
from nutshell.score.layout import Shape
from nutshell.score.prove import prove, verify
from nutshell.score.windows import WindowPlan
from score_twins import ByteTokenizer, Order2, coder_of, documents_of

texts = st.lists(st.text("ab ", max_size=40).map(str.encode), min_size=1, max_size=6).filter(any)


@st.composite
def plans(draw):
    context = draw(st.integers(1, 12))
    return WindowPlan(context=context, stride=draw(st.integers(1, context)))


@settings(max_examples=60, deadline=None)
@given(texts, plans(), st.integers(1, 4), st.integers(1, 40), st.integers(1, 60))
def test_any_score_by_document_can_be_proved(texts, plan, rows, piece_tokens, batch_tokens):
    documents = documents_of(*texts)
    score = score_documents(Order2(context=12), documents, plan, batch_tokens=batch_tokens)
    coder, shape = coder_of(Order2(context=12)), Shape(rows=rows, piece_tokens=piece_tokens)
    proof = prove(coder, documents, score, environment={}, shape=shape)
    assert proof.receipt.ok, proof.receipt.reason
    decoded = verify(coder, ByteTokenizer(), proof, environment={})
    assert {document: bytes(tokens.tolist()) for document, tokens in decoded.items()} == dict(enumerate(texts))


@settings(max_examples=40, deadline=None)
@given(texts, plans(), st.integers(1, 60))
def test_documents_add_up_and_batches_change_nothing(texts, plan, batch_tokens):
    documents = documents_of(*texts)
    score = score_documents(Order2(context=12), documents, plan, batch_tokens=batch_tokens)
    alone = [
        score_documents(Order2(context=12), documents.take([place]), plan).total_nats if text else None
        for place, text in enumerate(texts)
    ]
    for claimed, nats in zip(score.document_nats, alone, strict=True):
        assert nats is None or claimed == pytest.approx(nats, rel=1e-12)
    assert math.fsum(score.document_nats) == score.total_nats
