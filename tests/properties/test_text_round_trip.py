"""Any bytes survive: files to documents, documents to tokens, tokens to shards."""

import gzip
import itertools
import lzma

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nutshell.data.documents import read_documents
from nutshell.data.shards import TokenStream, read_shard, write_shard
from nutshell.data.tokenizer import Tokenizer
from text_samples import foreign_model, small_tokenizer

FRAGMENTS = st.sampled_from(
    [
        b" ",
        b"  ",
        b"\n",
        b"\r\n",
        b"\0",
        b"\xff",
        b"\xe2\x96",
        b"\xe2\x96\x81",
        b"\xef\xb8\x8f",
        b"<s>",
        b"<0x41>",
        b"the ",
    ]
)
DOCUMENTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode()),
    st.lists(st.one_of(FRAGMENTS, st.binary(max_size=3), st.sampled_from([b"Emma", b" was", b"."]))).map(b"".join),
)
FOREIGN = [
    {},
    {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    {"add_dummy_prefix": False},
    {"model_type": "unigram", "user_defined_symbols": "<sep>,\u2581\u2581"},
]


@settings(deadline=None)
@given(DOCUMENTS)
def test_own_tokenizer_is_exact_and_never_writes_a_control_token(document):
    tokenizer = small_tokenizer()
    tokens = tokenizer.encode(document)
    assert tokenizer.decode(tokens) == document
    assert len(tokens) <= len(document)
    assert tokens.min(initial=3) >= 3


@pytest.mark.parametrize("model", FOREIGN)
@settings(deadline=None)
@given(document=DOCUMENTS)
@example(document=b" hello")
@example(document=b"hello\xff world")
@example(document=b"\xff world")
def test_published_tokenizers_are_exact(model, document):
    tokenizer = Tokenizer(foreign_model(**model))
    assert tokenizer.decode(tokenizer.encode(document)) == document


@settings(deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=5))
def test_a_stream_gives_each_position_its_own_bytes(documents):
    tokenizer = Tokenizer(foreign_model())
    encoded = [tokenizer.encode(document) for document in documents]
    stream = np.concatenate([np.concatenate([[tokenizer.bos_id], tokens]) for tokens in encoded])
    pieces = tokenizer.pieces(stream)
    assert len(pieces) == len(stream)
    expected = [piece for tokens in encoded for piece in (b"", *tokenizer.pieces(tokens))]
    assert pieces == expected
    assert b"".join(pieces) == b"".join(documents)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@settings(deadline=None)
@given(
    content=st.binary(max_size=5000),
    suffix=st.sampled_from(["", ".gz", ".xz", ".zst"]),
)
def test_files_give_back_their_bytes(folder, content, suffix):
    compress = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}[suffix]
    path = folder / f"a.txt{suffix}"
    path.write_bytes(compress(content))
    assert list(read_documents(path)) == [content]


@settings(deadline=None)
@given(arrays(np.uint16, st.integers(1, 300)), st.lists(st.integers(0, 300), max_size=4))
def test_shards_cut_anywhere_read_as_one(folder, tokens, cuts):
    edges = sorted({0, len(tokens), *(cut for cut in cuts if cut < len(tokens))})
    shards = []
    for index, (start, stop) in enumerate(itertools.pairwise(edges)):
        path = folder / f"a_train_{index:06d}.bin"
        write_shard(path, tokens[start:stop])
        shards.append(np.array(read_shard(path)))
    stream = TokenStream(shards)
    assert (stream[0 : len(stream)] == tokens).all()
    bos_id = int(tokens[0])
    rebuilt = [token for document in stream.documents(bos_id) for token in (bos_id, *document.tolist())]
    assert rebuilt == tokens.tolist()
