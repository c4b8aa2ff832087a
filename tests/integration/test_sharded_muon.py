"""Optimizers over several processes: what one process does, and bit for bit the same on all of them."""

import pytest
import torch
from safetensors.torch import load_file

import sharded_worker
from nutshell.optim import muon as muon_module
from nutshell.optim.config import MuonConfig
from nutshell.optim.muon import Muon
from nutshell.optim.sharded import Pending
from nutshell.ranks import ALONE, Ranks
from optim_matrices import give_gradients, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(sharded_worker.work, (str(made),), nprocs=4)
    return made


@pytest.fixture(scope="module")
def alone():
    return sharded_worker.updated(ALONE)


@pytest.mark.parametrize("size", [2, 4])
def test_many_ranks_update_as_one_does(folder, alone, size):
    found = load_file(folder / f"whole{size}-0.safetensors")
    assert found.keys() == alone.keys()
    for name, expected in alone.items():
        torch.testing.assert_close(found[name], expected, atol=2e-5, rtol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_hold_the_same_bits(folder, size):
    first, *others = (load_file(folder / f"whole{size}-{rank}.safetensors") for rank in range(size))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_the_test_moves_what_it_should_and_clips(alone):
    start = {row.name: row.value for row in sharded_worker.table()}
    still = [name for name, value in start.items() if torch.equal(value, alone[f"weight.{name}"])]
    assert still == ["p2", "p18"]
    assert alone["norms"].min() > sharded_worker.CONFIG.grad_clip


def test_a_state_goes_on_with_another_number_of_ranks(folder, alone):
    for rank in range(2):
        resumed = load_file(folder / f"resumed-{rank}.safetensors")
        for name, expected in alone.items():
            last = expected[sharded_worker.SAVED_AFTER :] if name == "norms" else expected
            torch.testing.assert_close(resumed[name], last, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("size", [2, 4])
def test_all_ranks_name_the_gradient_that_one_of_them_broke(folder, size):
    said = {(folder / f"said{size}-{rank}").read_text() for rank in range(size)}
    assert said == {"the gradient of p7 is not finite (norm nan); lower the learning rates"}


def test_updates_travel_while_the_next_stack_is_orthogonalised(monkeypatch):
    """The order in which things are started and awaited, told by exchanges that only write it down."""
    events = []

    class Noted:
        def __init__(self, text):
            self.text = text

        def wait(self):
            events.append(f"await {self.text}")

    def sum_parts(stack, ranks):
        events.append(f"sum {stack.shape[-1]}")
        return Pending(stack[: len(stack) // ranks.size], Noted(f"sum {stack.shape[-1]}"))

    def gather_parts(part, ranks):
        events.append(f"send {part.shape[-1]}")
        return Pending(part.repeat(ranks.size, 1, 1), Noted(f"send {part.shape[-1]}"))

    def orthogonalise(updates, *_, **__):
        events.append(f"products {updates.shape[-1]}")
        return updates

    for stand_in in (sum_parts, gather_parts, orthogonalise):
        monkeypatch.setattr(muon_module, stand_in.__name__, stand_in)
    table = rows([(2, 3), (2, 5), (2, 4)])
    give_gradients(table, seed=0)
    muon = Muon(table, MuonConfig(), lr=0.1, dtype=torch.float32, ranks=Ranks(0, 2))
    summed = muon.sum_gradients()
    land = muon.step(summed, lr_scale=1.0, momentum=0.9, weight_decay=0.0)
    events.append("AdamW")
    land()
    assert events == [
        *("sum 5", "sum 4", "sum 3"),
        *("await sum 5", "products 5", "send 5"),
        *("await sum 4", "products 4", "send 4", "await send 5"),
        *("await sum 3", "products 3", "send 3", "await send 4"),
        *("AdamW", "await send 3"),
    ]
