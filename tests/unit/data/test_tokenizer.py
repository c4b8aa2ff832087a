import numpy as np
import pytest
import sentencepiece

from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import DataError
from text_samples import chapters, foreign_model, small_tokenizer

HARD = [
    b"",
    b" ",
    b"   leading and trailing   ",
    b"\n",
    b"\r\n\n\r\t\x0b\x0c",
    b"\0",
    b"a\0b\0\0",
    b"\xff",
    b"cut \xc3",
    b"\xa9cut \xc3\xa9\xc3 \x80\x81 end",
    b"\xed\xa0\x80 a surrogate in CESU, which is not UTF-8",
    "a literal \u2581 and \u2581\u2581two".encode(),
    "\u2585 \ufffd \ufeff \u00a0 \u3000 \u2028 \u200b \U0001f600 \u65e5\u672c\u8a9e e\u0301 \ufb01".encode(),
    b"<s></s><unk><pad><0x41><0xFF> <bos>",
    bytes(range(256)) * 3,
]
FOREIGN = {
    "default": {},
    "unigram": {"model_type": "unigram"},
    "keeps spaces": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no prefix": {"add_dummy_prefix": False, "split_digits": True},
    "user symbols": {"user_defined_symbols": "<sep>,\u2581\u2581"},
}


@pytest.fixture(params=FOREIGN)
def foreign(request):
    return foreign_model(**FOREIGN[request.param])


@pytest.mark.parametrize("document", HARD)
def test_round_trip_is_exact(document):
    tokenizer = small_tokenizer()
    tokens = tokenizer.encode(document)
    assert tokens.dtype == np.uint16
    assert tokenizer.bos_id not in tokens
    assert tokenizer.decode(tokens) == document


@pytest.mark.parametrize("document", HARD)
def test_round_trip_through_published_models_is_exact(foreign, document):
    tokenizer = Tokenizer(foreign)
    assert tokenizer.decode(tokenizer.encode(document)) == document


def test_plain_text_gets_the_tokens_of_sentencepiece():
    reference = sentencepiece.SentencePieceProcessor(model_proto=small_tokenizer().model_bytes)
    document = chapters()[-1]
    assert small_tokenizer().encode(document).tolist() == reference.encode(document.decode())


@pytest.mark.parametrize("odd", [b"\xff", "\u2581".encode()])
@pytest.mark.parametrize("settings", [None, {}])
def test_only_what_is_not_text_is_spelt_in_bytes(odd, settings):
    tokenizer = small_tokenizer() if settings is None else Tokenizer(foreign_model(**settings))
    text = b" the house of the lady"
    before, after = tokenizer.encode(text[1:]).tolist(), tokenizer.encode(text).tolist()
    if settings is not None:
        after = before  # the prefix that the model adds stands for the space in the text
    tokens = tokenizer.encode(text[1:] + odd + text).tolist()
    assert tokens == [*before, *(3 + byte for byte in odd), *after]


def test_published_streams_decode_as_sentencepiece_decodes_them(foreign):
    reference = sentencepiece.SentencePieceProcessor(model_proto=foreign)
    texts = ["Emma was  there. ", " She went", "x", "naive \u00e9t\u00e9 1816", "two  spaces"]
    for text in texts:
        tokens = np.array(reference.encode(text), dtype=np.uint16)
        assert Tokenizer(foreign).decode(tokens).decode() == reference.decode(tokens.tolist())


def test_byte_lengths_are_those_of_the_pieces(foreign):
    for tokenizer in (Tokenizer(foreign), small_tokenizer()):
        encoded = [tokenizer.encode(document) for document in (*HARD, *chapters()[:2], b" the", b"the the")]
        stream = np.concatenate([[tokenizer.bos_id, *tokens] for tokens in encoded]).astype(np.uint16)
        for tokens in (stream, stream[1:], stream[:1], stream[:0]):
            expected = [len(piece) for piece in tokenizer.pieces(tokens)]
            assert tokenizer.byte_lengths(tokens).tolist() == expected


def test_dummy_prefix_is_no_text_at_the_start_of_each_document():
    tokenizer = Tokenizer(foreign_model())
    reference = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model_bytes)
    tokens = reference.encode("she and")
    assert reference.id_to_piece(tokens) == ["\u2581she", "\u2581and"]
    stream = np.array([tokenizer.bos_id, *tokens, tokenizer.bos_id, *tokens], dtype=np.uint16)
    assert tokenizer.pieces(stream) == [b"", b"she", b" and", b"", b"she", b" and"]
    assert tokenizer.pieces(stream[1:]) == [b"she", b" and", b"", b"she", b" and"]


def test_a_space_at_the_start_of_a_document_is_text_where_no_prefix_is_added():
    tokenizer = small_tokenizer()
    tokens = tokenizer.encode(b" the")
    stream = np.concatenate([[np.uint16(tokenizer.bos_id)], tokens])
    assert tokenizer.pieces(stream) == [b"", b" the"]


def test_byte_tokens_are_one_byte_each():
    tokenizer = small_tokenizer()
    ids = [tokenizer.encode(bytes([byte]))[0] for byte in range(128, 256)]
    assert tokenizer.pieces(np.array(ids)) == [bytes([byte]) for byte in range(128, 256)]
    spelt = np.arange(3, 3 + 256, dtype=np.uint16)
    assert tokenizer.pieces(spelt) == [bytes([byte]) for byte in range(256)]
    assert tokenizer.decode(np.array([0, 1, 2])) == b"", "unknown, BOS and EOS are no text"


def test_long_documents_are_encoded_in_spans(monkeypatch):
    monkeypatch.setattr("nutshell.data.tokenizer._SPAN_CHARS", 100)
    document = chapters()[0]
    tokens = small_tokenizer().encode(document)
    assert small_tokenizer().decode(tokens) == document


def test_text_far_from_what_a_model_keeps_does_not_nest_deep():
    document = ("\ufb01" * 40_000 + " ").encode()
    tokenizer = Tokenizer(foreign_model())
    assert tokenizer.decode(tokenizer.encode(document)) == document


def test_facts_of_a_model(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(small_tokenizer().model_bytes)
    tokenizer = Tokenizer.from_file(path)
    assert (tokenizer.vocab_size, tokenizer.bos_id) == (512, 1)
    assert tokenizer.sha256 == small_tokenizer().sha256
    assert tokenizer.model_bytes == path.read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"byte_fallback": False, "vocab_size": 200}, "a tokenizer without byte fallback"),
        ({"bos_id": -1}, "a tokenizer without a BOS token"),
        ({"treat_whitespace_as_suffix": True}, "a tokenizer that adds a space behind each document"),
    ],
)
def test_models_that_cannot_serve(settings, message):
    with pytest.raises(DataError, match=message):
        Tokenizer(foreign_model(**settings))


def test_model_without_a_space_token():
    with pytest.raises(DataError, match="a tokenizer without a token for the space"):
        Tokenizer(foreign_model(lines=("\u65e5\u672c\u8a9e",), vocab_size=263, add_dummy_prefix=False))


def test_damaged_models():
    model = small_tokenizer().model_bytes
    with pytest.raises(DataError, match=r"^empty where a SentencePiece model is needed"):
        Tokenizer(b"")
    for damaged in (b"garbage", model[:-1], model[: len(model) // 2], model[1:]):
        with pytest.raises(DataError, match=r"^not a SentencePiece model, or a damaged one; copy it again$"):
            Tokenizer(damaged)


def test_file_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.model: cannot be read \(No such file or directory\)$"):
        Tokenizer.from_file(tmp_path / "none.model")
    (tmp_path / "a.model").write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"a\.model: not a SentencePiece model"):
        Tokenizer.from_file(tmp_path / "a.model")
