import numpy as np
import pytest

from nutshell.data.batches import Batches
from nutshell.data.shards import TokenStream
from nutshell.errors import DataError


def numbered(count):
    return np.arange(count, dtype=np.uint16)


def epoch_targets(batches, epoch):
    """Targets of one epoch, given a batch size of 1."""
    steps = range(epoch * batches.windows_per_epoch, (epoch + 1) * batches.windows_per_epoch)
    return np.concatenate([batches.batch(step)[1].ravel() for step in steps])


@pytest.mark.parametrize(("num_tokens", "seq_len"), [(1000, 16), (1000, 10), (17, 16), (33, 16)])
def test_an_epoch_has_each_target_once_but_for_less_than_a_window(num_tokens, seq_len):
    batches = Batches(numbered(num_tokens), batch_size=1, seq_len=seq_len, seed=0)
    missed = set()
    for epoch in range(4):
        targets = epoch_targets(batches, epoch)
        assert len(np.unique(targets)) == len(targets)
        assert num_tokens - seq_len < len(targets) <= num_tokens
        missed |= set(range(num_tokens)) - set(targets.tolist())
    if num_tokens % seq_len and num_tokens > seq_len + 1:
        assert len(missed) > num_tokens % seq_len, "the phase moves"


def test_targets_follow_inputs_around_the_ring():
    inputs, targets = Batches(numbered(100), batch_size=64, seq_len=7, seed=3).batch(5)
    assert inputs.shape == targets.shape == (64, 7)
    assert inputs.dtype == targets.dtype == np.int64
    assert (targets == (inputs + 1) % 100).all()
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    assert (targets == 0).any(), "some window crosses the end"


def test_batch_is_a_pure_function_of_seed_and_step():
    make = lambda seed: Batches(numbered(500), batch_size=4, seq_len=8, seed=seed)  # noqa: E731
    steps = [0, 40, 3, 100, 3]
    first, second = make(1), make(1)
    forward = {step: first.batch(step)[0] for step in sorted(steps)}
    for step in steps:
        assert (second.batch(step)[0] == forward[step]).all()
    assert (make(2).batch(0)[0] != forward[0]).any()


def test_epochs_differ_in_order_and_phase():
    batches = Batches(numbered(500), batch_size=1, seq_len=8, seed=0)
    first, second = epoch_targets(batches, 0), epoch_targets(batches, 1)
    assert set(first.tolist()) != set(second.tolist()), "the phase moves"
    assert (np.diff(first[::8].astype(int)) != 8).any(), "windows are shuffled"


def test_batch_size_only_groups_the_same_windows():
    single = Batches(numbered(300), batch_size=1, seq_len=8, seed=0)
    grouped = Batches(numbered(300), batch_size=5, seq_len=8, seed=0)
    rows = np.concatenate([grouped.batch(step)[0] for step in range(40)])
    assert (rows == np.concatenate([single.batch(step)[0] for step in range(200)])).all()


def test_shards_give_the_batches_of_one_array():
    tokens = numbered(300)
    stream = TokenStream([tokens[:7], tokens[7:150], tokens[150:]])
    for step in range(30):
        expected = Batches(tokens, batch_size=3, seq_len=20, seed=0).batch(step)
        found = Batches(stream, batch_size=3, seq_len=20, seed=0).batch(step)
        np.testing.assert_array_equal(found, expected)


def test_text_too_short_for_a_window():
    Batches(numbered(17), batch_size=1, seq_len=16, seed=0)
    with pytest.raises(DataError, match=r"has 16 tokens, too few for one window of 16 and its target; give more text"):
        Batches(numbered(16), batch_size=1, seq_len=16, seed=0)


def test_order_is_pinned():
    """Resuming a stored run needs the same batches from the same step."""
    inputs, _ = Batches(numbered(1000), batch_size=4, seq_len=16, seed=7).batch(123)
    assert inputs[:, 0].tolist() == [577, 481, 737, 897]
