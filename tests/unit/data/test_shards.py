import struct

import numpy as np
import pytest

from nutshell.data.shards import TokenStream, read_shard, write_shard
from nutshell.errors import DataError

TOKENS = np.array([1, 0, 65535, 258, 1, 7], dtype=np.uint16)


def shard_bytes(tokens=TOKENS, magic=20240520, version=1, count=None):
    """The format, written a second time by other means."""
    count = len(tokens) if count is None else count
    return struct.pack("<256i", magic, version, count, *[0] * 253) + struct.pack(f"<{len(tokens)}H", *tokens)


def test_bytes_of_a_shard(tmp_path):
    path = tmp_path / "a_train_000000.bin"
    write_shard(path, TOKENS)
    assert path.read_bytes() == shard_bytes()


def test_read_gives_a_read_only_map(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(shard_bytes())
    tokens = read_shard(path)
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == TOKENS.tolist()
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"not a token shard \(its header does not start with 20240520\)$"),
        (shard_bytes()[:1000], "not a token shard"),
        (shard_bytes(magic=20240521), "not a token shard"),
        (shard_bytes(version=2), "shard version 2, only version 1 is known$"),
        (shard_bytes()[:-2], "the header counts 6 tokens, the file holds 5; copy it again$"),
        (shard_bytes()[:-1], r"the header counts 6 tokens, the file holds 5\.5; copy it again$"),
        (shard_bytes() + b"\0\0", "the header counts 6 tokens, the file holds 7; copy it again$"),
        (shard_bytes(count=-6), "the header counts -6 tokens"),
        (shard_bytes(tokens=[]), "the header counts 0 tokens"),
    ],
)
def test_damaged_shards(tmp_path, content, message):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.bin: " + message):
        read_shard(path)


def test_missing_shard(tmp_path):
    with pytest.raises(DataError, match=r"a\.bin: cannot be read \(No such file or directory\)$"):
        read_shard(tmp_path / "a.bin")


def test_stream_slices_as_one_array_does():
    whole = np.arange(10, dtype=np.uint16)
    stream = TokenStream([whole[:3], whole[3:4], whole[4:]])
    assert len(stream) == 10
    for start in range(11):
        for stop in range(12):
            assert stream[start:stop].tolist() == whole[start:stop].tolist()
            assert stream[start:stop].dtype == np.uint16


def test_documents_are_cut_at_bos_across_shards():
    shards = [[1, 5, 6, 1], [1, 7], [8, 9], [1]]
    stream = TokenStream([np.array(shard, dtype=np.uint16) for shard in shards])
    assert [document.tolist() for document in stream.documents(bos_id=1)] == [[5, 6], [], [7, 8, 9], []]


@pytest.mark.parametrize(("tokens", "expected"), [([5, 1, 6], [[5], [6]]), ([5, 6], [[5, 6]])])
def test_tokens_before_the_first_bos_are_a_document(tokens, expected):
    stream = TokenStream([np.array(tokens, dtype=np.uint16)])
    assert [document.tolist() for document in stream.documents(bos_id=1)] == expected


def test_positions_count_over_all_shards():
    stream = TokenStream([np.array(shard, dtype=np.uint16) for shard in ([1, 5, 6, 1], [1, 7], [8, 9], [1])])
    assert stream.edges.tolist() == [0, 4, 6, 8, 9]
    assert stream.find(1).tolist() == [0, 3, 4, 8]
    assert stream.find(2).tolist() == []
    assert stream.take(np.array([0, 1, 1, 4, 5, 8])).tolist() == [1, 5, 5, 1, 7, 1]
    assert stream.take(np.array([7])).tolist() == [9]


def test_a_stream_counts_what_is_read_of_it():
    stream = TokenStream([np.arange(5, dtype=np.uint16), np.arange(3, dtype=np.uint16)])
    assert stream.num_read == 0
    assert len(stream[1:7]) == stream.num_read == 6
    stream.take(np.array([0, 6]))
    assert stream.num_read == 8
    stream.find(2)
    assert stream.num_read == 16
    assert sum(len(shard) for shard in stream.shards()) == 8
    assert stream.num_read == 24
