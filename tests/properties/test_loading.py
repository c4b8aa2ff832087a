"""Every kind of loader, any text and any sizes: what an epoch has, what ranks get, and that nothing is remembered."""

import itertools

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nutshell.data.loading.config import CoprimeConfig, RingConfig, SequentialConfig, ShuffledConfig
from nutshell.data.loading.loader import build_loader
from nutshell.data.shards import TokenStream

BOS = 60_000
ALIGN = ("stream", "documents")
CONFIGS = st.one_of(
    st.builds(RingConfig, align=st.sampled_from(ALIGN)),
    st.builds(SequentialConfig, align=st.sampled_from(ALIGN), start=st.sampled_from(["drawn", "first"])),
    st.builds(ShuffledConfig, align=st.sampled_from(ALIGN)),
    st.builds(CoprimeConfig, align=st.sampled_from(ALIGN), shards_at_once=st.none() | st.integers(1, 4)),
)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def texts(draw):
    """Tokens that are their own positions, but for BOS; the positions of BOS; the edges of the shards."""
    num_tokens = draw(st.integers(40, 400))
    bos = sorted(draw(st.sets(st.integers(0, num_tokens - 1), min_size=1, max_size=30)))
    cuts = sorted(draw(st.sets(st.integers(1, num_tokens - 1), max_size=3)))
    return num_tokens, bos, [0, *cuts, num_tokens]


def build(config, text, seed):
    num_tokens, bos, edges = text
    tokens = np.arange(num_tokens, dtype=np.uint16)
    tokens[bos] = BOS
    stream = TokenStream([tokens[start:stop] for start, stop in itertools.pairwise(edges)])
    return build_loader(config, stream, bos_id=BOS, seed=seed)


def has_windows(config, text, seq_len):
    """Say whether every epoch must have one, by the plainest sufficient rule."""
    _, bos, edges = text
    if isinstance(config, RingConfig | SequentialConfig):
        return True
    reach = [
        stop - next((begin for begin in bos if start <= begin < stop), stop) if config.align == "documents"
        else stop - start
        for start, stop in itertools.pairwise(edges)
    ]  # fmt: skip
    return max(reach) > seq_len


def starts_of(inputs, targets, num_tokens):
    """Find where windows begin, for BOS does not say; a window always has a token that does."""
    rows = np.concatenate([inputs, targets[:, -1:]], axis=1)
    starts = []
    for row in rows:
        column = next((column for column, token in enumerate(row) if token != BOS), None)
        starts.append(None if column is None else int(row[column] - column) % num_tokens)
    return starts


@settings(deadline=None)
@given(CONFIGS, texts(), st.integers(1, 12), SEEDS, st.integers(0, 2))
def test_an_epoch_reads_no_target_twice_and_misses_only_what_its_kind_says(config, text, seq_len, seed, epoch):
    num_tokens, bos, edges = text
    assume(has_windows(config, text, seq_len))
    loader = build(config, text, seed)
    before = sum(loader.windows(seq_len, earlier) for earlier in range(epoch))
    count = loader.windows(seq_len, epoch)
    inputs, targets = loader.batch(before * seq_len, batch_size=count, seq_len=seq_len)
    starts = starts_of(inputs, targets, num_tokens)
    assume(None not in starts)  # a window of nothing but BOS cannot be told from another

    seen = [(start + 1 + offset) % num_tokens for start in starts for offset in range(seq_len)]
    assert len(set(seen)) == len(seen)
    expected = np.arange(num_tokens)
    expected[bos] = BOS
    assert targets.ravel().tolist() == expected[seen].tolist()
    if config.align == "stream":
        # A shard misses its phase, its first token, which nothing predicts, and what fills no window at its end.
        limit = seq_len if isinstance(config, RingConfig | SequentialConfig) else 2 * seq_len * (len(edges) - 1)
        assert num_tokens - len(seen) < limit
    else:
        taken = set(starts)
        for start in taken:
            inside = not any((start + offset) % num_tokens in bos for offset in range(1, seq_len))
            goes_on = (start - seq_len) % num_tokens in taken and inside
            assert start in bos or goes_on


@settings(deadline=None)
@given(CONFIGS, texts(), st.integers(1, 12), SEEDS, st.integers(0, 600), st.sampled_from([1, 2, 4, 8]))
def test_the_rows_of_all_ranks_are_the_batch(config, text, seq_len, seed, position, ranks):
    assume(has_windows(config, text, seq_len))
    whole = build(config, text, seed).batch(position, batch_size=8, seq_len=seq_len)
    each = 8 // ranks
    parts = [
        build(config, text, seed).batch(
            position, batch_size=8, seq_len=seq_len, rows=slice(rank * each, (rank + 1) * each)
        )
        for rank in range(ranks)
    ]
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([part[side] for part in parts]), whole[side])


@settings(deadline=None)
@given(
    CONFIGS,
    texts(),
    SEEDS,
    st.lists(st.tuples(st.integers(0, 900), st.integers(1, 5), st.integers(1, 12)), min_size=1, max_size=6),
)
def test_a_batch_depends_on_its_position_and_sizes_alone(config, text, seed, requests):
    assume(all(has_windows(config, text, seq_len) for _, _, seq_len in requests))
    used = build(config, text, seed)
    for position, batch_size, seq_len in requests:
        found = used.batch(position, batch_size=batch_size, seq_len=seq_len)
        fresh = build(config, text, seed).batch(position, batch_size=batch_size, seq_len=seq_len)
        np.testing.assert_array_equal(found, fresh)


@settings(deadline=None)
@given(CONFIGS, texts(), st.integers(1, 12), SEEDS, st.integers(1, 4), st.integers(0, 40))
def test_batch_size_only_groups_the_same_rows(config, text, seq_len, seed, batch_size, step):
    assume(has_windows(config, text, seq_len))
    loader = build(config, text, seed)
    position = step * batch_size * seq_len
    grouped = loader.batch(position, batch_size=batch_size, seq_len=seq_len)
    single = [loader.batch(position + row * seq_len, batch_size=1, seq_len=seq_len) for row in range(batch_size)]
    for side in (0, 1):
        np.testing.assert_array_equal(np.concatenate([row[side] for row in single]), grouped[side])
