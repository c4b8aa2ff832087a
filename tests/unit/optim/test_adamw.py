import pytest
import torch
from torch import nn

from nutshell.optim.adamw import AdamW, Group
from optim_matrices import give_gradients, rows


def made(*groups):
    return AdamW(groups, betas=(0.8, 0.95), eps=1e-6)


def test_it_agrees_with_torchs_under_changing_rates_and_decays():
    table = rows([(4, 3), (5,), (2, 2)], role="gain")
    ours = made(Group(table[:2], 0.1, ((0.5, 0.4), (1.0, 0.2))), Group(table[2:], 0.02, 0.0))
    copies = [nn.Parameter(row.value.detach().clone()) for row in table]
    theirs = torch.optim.AdamW(copies, betas=(0.8, 0.95), eps=1e-6, fused=False, foreach=False)
    theirs.param_groups[0]["params"] = copies[:2]
    theirs.add_param_group({"params": copies[2:]})
    for number, (progress, decay) in enumerate([(0.0, 0.4), (0.5, 0.4), (0.75, 0.3), (1.0, 0.2)]):
        give_gradients(table, seed=number)
        for row, copy in zip(table, copies, strict=True):
            copy.grad = row.value.grad.clone()
        scale = 1.0 - 0.5 * progress
        theirs.param_groups[0].update(lr=0.1 * scale, weight_decay=decay)
        theirs.param_groups[1].update(lr=0.02 * scale, weight_decay=0.0)
        ours.step(progress, lr_scale=scale)
        theirs.step()
    for row, copy in zip(table, copies, strict=True):
        torch.testing.assert_close(row.value.detach(), copy.detach(), atol=1e-6, rtol=1e-6)


def test_a_late_taper_changes_only_what_comes_after_it():
    def trained(decay):
        table = rows([(4, 3)], role="gain")
        adamw, kept = made(Group(table, 0.1, decay)), []
        for number in range(10):
            give_gradients(table, seed=number)
            adamw.step(number / 10, lr_scale=1.0)
            kept.append(table[0].value.detach().clone())
        return kept

    whole, tapered = trained(0.5), trained(((0.7, 0.5), (1.0, 0.25)))
    same = [torch.equal(a, b) for a, b in zip(whole, tapered, strict=True)]
    assert same == [True] * 8 + [False] * 2


def test_a_group_may_be_empty_and_so_may_all():
    table = rows([(3,)], role="gain")
    adamw = made(Group([], 0.1, 0.0), Group(table, 0.1, 0.0))
    give_gradients(table, seed=0)
    adamw.step(0.0, lr_scale=1.0)
    assert {name.rpartition(".")[0] for name in adamw.state()} == {"w0"}
    nothing = made(Group([], 0.1, 0.0))
    nothing.step(0.0, lr_scale=1.0)
    assert nothing.state() == {}


@pytest.mark.parametrize("steps", [1, 3])
def test_what_it_did_not_reach_has_no_state(steps):
    table = rows([(3,), (2,)], role="gain")
    adamw = made(Group(table, 0.1, 0.5))
    before = table[1].value.detach().clone()
    for number in range(steps):
        give_gradients(table[:1], seed=number)
        adamw.step(0.0, lr_scale=1.0)
    assert torch.equal(table[1].value, before)
    assert not any(name.startswith("w1.") for name in adamw.state())
