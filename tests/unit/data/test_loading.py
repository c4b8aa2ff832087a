import itertools

import msgspec
import numpy as np
import pytest

from nutshell.data.loading.config import CoprimeConfig, LoaderConfig, RingConfig, SequentialConfig, ShuffledConfig
from nutshell.data.loading.cuts import document_windows
from nutshell.data.loading.loader import build_loader
from nutshell.data.shards import TokenStream
from nutshell.errors import DataError

KINDS = [RingConfig(), SequentialConfig(), ShuffledConfig(), CoprimeConfig(), CoprimeConfig(shards_at_once=2)]
BOS = 60_000


def numbered(count):
    return np.arange(count, dtype=np.uint16)


def loader_of(config, tokens, *cuts, seed=0):
    stream = TokenStream([tokens[start:stop] for start, stop in itertools.pairwise((0, *cuts, len(tokens)))])
    return build_loader(config, stream, bos_id=BOS, seed=seed)


def first_inputs(loader, seq_len, epoch):
    """Read the starts of an epoch's windows, in the order in which they come, where tokens are their positions."""
    before = sum(loader.windows(seq_len, earlier) for earlier in range(epoch))
    inputs, _ = loader.batch(before * seq_len, batch_size=loader.windows(seq_len, epoch), seq_len=seq_len)
    return inputs[:, 0]


def plain_document_windows(bos, stop, seq_len):
    """The rule of `cuts.py` word for word, a window at a time."""
    starts, here = [], bos[0]
    while here + seq_len <= stop:
        starts.append(here)
        end = here + seq_len
        following = next((begin for begin in [*bos, stop] if begin >= end), stop)
        here = end if following - end >= seq_len else following
    return starts


@pytest.mark.parametrize("config", [*KINDS, RingConfig(align="documents"), SequentialConfig(start="first")])
def test_recipes_write_kinds_as_tables(config):
    table = msgspec.to_builtins(config)
    assert msgspec.convert(table, LoaderConfig) == config
    assert f"{table['kind']}config" == type(config).__name__.lower()


def test_shards_at_once_is_refused_below_one():
    with pytest.raises(ValueError, match="shards_at_once must be at least 1, got 0"):
        CoprimeConfig(shards_at_once=0)


@pytest.mark.parametrize("config", KINDS)
def test_targets_follow_inputs(config):
    inputs, targets = loader_of(config, numbered(1000), 300, 700).batch(0, batch_size=99, seq_len=7)
    assert inputs.shape == targets.shape == (99, 7)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == (inputs + 1) % 1000).all()
    assert (inputs[:, 1:] == targets[:, :-1]).all()


@pytest.mark.parametrize("config", [RingConfig(), ShuffledConfig(), CoprimeConfig()])
def test_epochs_differ_in_order_and_phase(config):
    loader = loader_of(config, numbered(5000), 2500)
    first, second = (first_inputs(loader, 8, epoch) for epoch in (0, 1))
    assert set(first.tolist()) != set(second.tolist()), "the phase moves"
    assert (np.diff(first) != 8).mean() > 0.5, "windows are mixed"


def test_sequential_reads_on_around_the_ring():
    inputs, _ = loader_of(SequentialConfig(start="first"), numbered(100), 30).batch(0, batch_size=30, seq_len=7)
    assert inputs.ravel().tolist() == [position % 100 for position in range(210)]
    drawn, _ = loader_of(SequentialConfig(), numbered(100), seed=3).batch(0, batch_size=30, seq_len=7)
    assert drawn.ravel().tolist() == [(drawn[0, 0] + position) % 100 for position in range(210)]


def test_sequential_goes_on_where_it_was_under_another_context_length():
    loader = loader_of(SequentialConfig(start="first"), numbered(1000))
    before, _ = loader.batch(0, batch_size=4, seq_len=16)
    after, _ = loader.batch(64, batch_size=2, seq_len=32)
    assert [*before.ravel(), *after.ravel()] == list(range(128))


@pytest.mark.parametrize("config", [ShuffledConfig(), CoprimeConfig()])
def test_windows_stay_inside_their_shard(config):
    cuts = (0, 100, 117, 400, 1000)
    loader = loader_of(config, numbered(1000), *cuts[1:-1])
    for epoch in range(5):
        starts = first_inputs(loader, 16, epoch)
        assert len(set(starts.tolist())) == len(starts)
        for low, high in itertools.pairwise(cuts):
            inside = np.sort(starts[(starts >= low) & (starts < high)])
            assert (np.diff(inside) == 16).all()
            assert inside[-1] + 16 < high, "its last target is in the shard"
            assert inside[0] - low < 16, "the phase is below a window"
            assert inside[-1] + 16 + 16 >= high, "and no window more would fit"


def test_shuffled_draws_shards_by_the_windows_they_have_left():
    """The published loader draws a shard so, then one of its windows: two small shards come early as often as late."""
    tokens = numbered(60 * 8 + 3)
    means = []
    for seed in range(400):
        starts = first_inputs(loader_of(ShuffledConfig(), tokens, 81, 162, seed=seed), 8, 0)
        means.append(np.flatnonzero(starts < 162).mean() / (len(starts) - 1))
    assert abs(np.mean(means) - 0.5) < 4 * np.std(means) / 20


def test_coprime_reads_each_shard_by_one_stride():
    loader = loader_of(CoprimeConfig(), numbered(3000), 1000, 1900)
    starts = first_inputs(loader, 10, 0)
    strides = set()
    for low, high in itertools.pairwise((0, 1000, 1900, 3000)):
        walk = starts[(starts >= low) & (starts < high)]
        steps = np.diff(walk) // 10 % len(walk)
        assert len(set(steps.tolist())) == 1, "every step is the same, modulo the shard's windows"
        strides.add(int(steps[0]))
    assert len(strides) > 1, "each shard draws its own"
    shard_of = np.searchsorted([1000, 1900], starts, side="right")
    assert (np.diff(shard_of) != 0).mean() > 0.5, "shards are mixed"


def test_coprime_may_finish_some_shards_before_it_opens_others():
    tokens = numbered(4000)
    shard_of = first_inputs(loader_of(CoprimeConfig(shards_at_once=2), tokens, 1000, 2000, 3000), 10, 0) // 1000
    half = len(shard_of) // 2
    early, late = set(shard_of[: half - 2].tolist()), set(shard_of[half + 2 :].tolist())
    assert len(early) == len(late) == 2
    assert not early & late
    alone = first_inputs(loader_of(CoprimeConfig(shards_at_once=1), tokens, 1000, 2000, 3000), 10, 0) // 1000
    assert np.count_nonzero(np.diff(alone)) == 3


def test_seeds_differ_in_the_order_of_the_data():
    for config in (*KINDS, RingConfig(align="documents")):
        tokens = numbered(20_000)
        tokens[::25] = BOS
        orders = {loader_of(config, tokens, 9000, seed=seed).batch(0, batch_size=4, seq_len=16)[0].tobytes()
                  for seed in range(20)}  # fmt: skip
        assert len(orders) == 20, config
    published = [loader_of(SequentialConfig(start="first"), numbered(900), seed=seed) for seed in (0, 1)]
    same = [loader.batch(0, batch_size=4, seq_len=16)[0].tolist() for loader in published]
    assert same[0] == same[1], "the published order has no seed"


class Watched:
    """A shard that counts the tokens read from it."""

    def __init__(self, count):
        self.tokens, self.num_read = numbered(count), 0

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, window):
        self.num_read += len(self.tokens[window])
        return self.tokens[window]


@pytest.mark.parametrize("config", KINDS)
def test_only_the_windows_of_a_batch_are_read(config):
    shards = [Watched(20_000), Watched(30_000)]
    loader = build_loader(config, TokenStream(shards), bos_id=BOS, seed=0)
    loader.windows(64)
    loader.batch(0, batch_size=8, seq_len=64, rows=slice(2, 5))
    assert sum(shard.num_read for shard in shards) == 3 * 65


def test_order_of_the_ring_is_pinned():
    """Resuming a stored run needs the same batches from the same position."""
    inputs, _ = loader_of(RingConfig(), numbered(1000), seed=7).batch(123 * 4 * 16, batch_size=4, seq_len=16)
    assert inputs[:, 0].tolist() == [577, 481, 737, 897]


DOCUMENTS = [
    [0, 3, 5, 9, 10, 11, 30],
    [0, 4, 8, 12, 16, 20],
    [0, 100],
    [7, 9, 9 + 17, 60],
    [2],
]


@pytest.mark.parametrize("seq_len", [1, 2, 4, 5, 16])
@pytest.mark.parametrize("bos", DOCUMENTS)
def test_document_windows_follow_their_rule(bos, seq_len):
    for stop in (bos[-1] + 1, bos[-1] + seq_len, bos[-1] + 5 * seq_len + 1):
        found = document_windows(np.array(bos), stop, seq_len).tolist()
        assert found == plain_document_windows(bos, stop, seq_len)


def test_rows_of_documents_begin_at_bos_or_go_on_in_a_long_one():
    tokens = numbered(100)
    bos = [0, 6, 10, 47, 52, 90]
    tokens[bos] = BOS
    inputs, targets = loader_of(SequentialConfig(align="documents", start="first"), tokens, 33).batch(
        0, batch_size=8, seq_len=8
    )
    # 0-7 cuts off 8-9 of its last document; 10 is long: 18, 26 and 34 go on in it, and 42-46 do not fill a window.
    first = [tokens[start] for start in (0, 10, 18, 26, 34, 47, 55, 63)]
    assert inputs[:, 0].tolist() == first
    assert targets[1].tolist() == list(range(11, 19)), "the first token after BOS is a target"
    assert (inputs[2, 0], targets[1, -1]) == (18, 18), "what is read on follows without a gap"


def test_share_that_is_skipped():
    tokens = numbered(100)
    assert loader_of(RingConfig(), tokens).skipped(10) == 0.0
    assert loader_of(RingConfig(), tokens).skipped(30) == pytest.approx(0.1)
    tokens[[0, 6, 10, 47, 52, 90]] = BOS
    aligned = loader_of(SequentialConfig(align="documents", start="first"), tokens)
    starts = plain_document_windows([0, 6, 10, 47, 52, 90], 100, 8)
    assert aligned.skipped(8) == pytest.approx(1 - len(starts) * 8 / 100)


def test_a_text_too_short_for_a_window():
    loader = loader_of(RingConfig(), numbered(17))
    assert loader.windows(16) == 1
    for ask in (loader.windows, loader.skipped, lambda seq_len: loader.batch(0, batch_size=1, seq_len=seq_len)):
        with pytest.raises(DataError, match=r"has 17 tokens, too few for one window of 17 and its target; give more"):
            ask(17)


def test_shards_too_short_for_a_window():
    assert loader_of(ShuffledConfig(), numbered(33), 16).windows(16) == 1, "the second has 17 tokens"
    with pytest.raises(DataError, match=r"^no window of 16 tokens and its target fits where train\.loader lets one"):
        loader_of(CoprimeConfig(), numbered(32), 16).windows(16)
    tokens = numbered(40)
    tokens[30] = BOS
    assert loader_of(RingConfig(align="documents"), tokens).windows(16) == 2, "the ring goes on behind its end"
    with pytest.raises(DataError, match=r"^no window of 16 tokens"):
        loader_of(ShuffledConfig(align="documents"), tokens).windows(16)


def test_documents_need_bos():
    with pytest.raises(DataError, match=r"has no BOS \(token 60000\) for rows to begin at; set train\.loader\.align"):
        loader_of(RingConfig(align="documents"), numbered(100))
