import numpy as np
import pytest

from nutshell.data.overlap import Shared, shared_documents
from nutshell.data.shards import TokenStream

BOS = 1


def side(*documents, cuts=(), opens_with_bos=True):
    tokens = [token for document in documents for token in (BOS, *document)]
    tokens = np.array(tokens if opens_with_bos else tokens[1:], dtype=np.uint16)
    return TokenStream(np.split(tokens, cuts))


def plain_shared(train, val):
    """Compare every document with every other."""
    return [(index, train.index(document)) for index, document in enumerate(val) if document and document in train]


def test_documents_on_both_sides_are_found_where_they_are_first():
    train = [[5, 6, 7], [8], [9, 10], [8], [5, 6, 7, 7]]
    val = [[9, 10], [5, 6], [8], [7, 6, 5], [8]]
    assert shared_documents(side(*train, cuts=(2, 5)), side(*val, cuts=(4,)), BOS) == [
        Shared(0, 2), Shared(2, 1), Shared(4, 1)
    ]  # fmt: skip


def test_equal_lengths_and_key_tokens_are_not_enough():
    train, val = [[5, 6, 7, 8, 9, 10]], [[6, 6, 7, 8, 8, 10]]
    assert shared_documents(side(*train), side(*val), BOS) == []


def test_text_before_the_first_bos_is_a_document():
    assert shared_documents(side([5, 6], [7], opens_with_bos=False), side([7], [5, 6]), BOS) == [
        Shared(0, 1), Shared(1, 0)
    ]  # fmt: skip


def test_documents_without_text_are_left_out():
    assert shared_documents(side([], [5], []), side([], [6]), BOS) == []


@pytest.mark.parametrize("seed", range(30))
def test_against_every_pair(seed):
    rng = np.random.default_rng(seed)
    draw = lambda count: [rng.integers(2, 5, rng.integers(0, 5)).tolist() for _ in range(count)]  # noqa: E731
    train, val = draw(40), draw(15)
    cuts = np.sort(rng.integers(1, 50, 3))
    assert shared_documents(side(*train, cuts=cuts), side(*val), BOS) == plain_shared(train, val)
