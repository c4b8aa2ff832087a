import numpy as np
import pytest
import torch
from torch import nn

from nutshell.optim.config import MuonConfig
from nutshell.optim.muon import Muon, equalise_rows
from optim_matrices import give_gradients, rows, step

# As published: Jordan et al. 2024; Amsel et al. 2025, a triple a step.
JORDAN = (3.4445, -4.7750, 2.0315)
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
]


def muon_of(table, *, lr=0.1, dtype=torch.float32, **config):
    return Muon(table, MuonConfig(**config), lr=lr, dtype=dtype)


def reference_update(update, row_norm, triples, margin):
    """The formula on one matrix in fp64, with loops where the code has stacks."""
    if row_norm:
        for row in update:
            row /= max(float(np.sqrt((row * row).sum())), 1e-7)
    x = update / (np.sqrt((update * update).sum()) * (1 + margin) + 1e-7)
    for a, b, c in triples:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x * max(1.0, update.shape[0] / update.shape[1]) ** 0.5


@pytest.mark.parametrize("row_norm", [False, True])
@pytest.mark.parametrize(
    ("coefficients", "triples", "margin"),
    [("jordan", [JORDAN] * 5, 0.0), ("jordan", [JORDAN] * 2, 0.0), ("polar_express", POLAR_EXPRESS, 0.02)],
)
def test_it_is_its_formula_and_treats_stacked_matrices_apart(row_norm, coefficients, triples, margin):
    table = rows([(4, 6), (6, 4), (4, 6), (5, 5)])
    muon = muon_of(table, row_norm=row_norm, coefficients=coefficients, steps=len(triples))
    momenta = [np.zeros(row.shape) for row in table]
    expected = [row.value.detach().double().numpy().copy() for row in table]
    for number in range(3):
        give_gradients(table, seed=number)
        for i, row in enumerate(table):
            grad = row.value.grad.double().numpy()
            momenta[i] = 0.9 * momenta[i] + grad
            direction = reference_update(grad + 0.9 * momenta[i], row_norm, triples, margin)
            expected[i] = (1 - 0.1 * 0.5 * 0.25) * expected[i] - 0.1 * 0.5 * direction
        step(muon, lr_scale=0.5, momentum=0.9, weight_decay=0.25)
    for row, value in zip(table, expected, strict=True):
        np.testing.assert_allclose(row.value.detach().numpy(), value, atol=2e-5)


def test_rows_of_any_length_weigh_the_same():
    updates = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    updates[0, 3] = 0.0
    equal = equalise_rows(updates)
    expected = torch.ones(2, 5)
    expected[0, 3] = 0.0
    torch.testing.assert_close(equal.norm(dim=-1), expected)
    lengths = torch.rand(2, 5, 1, generator=torch.Generator().manual_seed(2)) + 0.1
    torch.testing.assert_close(equalise_rows(lengths * updates), equal)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float32, 0.03)])
@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12)])
def test_it_agrees_with_torchs(shape, dtype, tolerance):
    """Torch averages: its buffer and its update `(1 - mu) g + mu b` are 1 - mu times ours, which Newton-Schulz removes.

    Its products are in bf16 always, hence the tolerance, in parts of the distance moved.
    """
    (row,) = rows([shape])
    theirs = nn.Parameter(row.value.detach().clone())
    start = row.value.detach().clone()
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1, nesterov=True, eps=1e-7)
    muon = muon_of([row], lr=0.02, dtype=dtype)
    for number in range(5):
        give_gradients([row], seed=number)
        theirs.grad = row.value.grad.clone()
        step(muon, weight_decay=0.1)
        reference.step()
    moved = (theirs.detach() - start).norm()
    assert (row.value.detach() - theirs.detach()).norm() < tolerance * moved


def test_a_matrix_without_a_gradient_rests_and_keeps_its_momentum():
    table = rows([(4, 6), (4, 6), (4, 6)])
    muon = muon_of(table)
    give_gradients(table, seed=0)
    step(muon, weight_decay=0.5)
    (momentum,) = (value.clone() for value in muon.state().values())
    before = [row.value.detach().clone() for row in table]
    give_gradients(table, seed=1)
    table[1].value.grad = None
    step(muon, weight_decay=0.5)
    (after,) = muon.state().values()
    assert torch.equal(table[1].value, before[1])
    assert torch.equal(after[1], momentum[1])
    for moving in (0, 2):
        assert not torch.equal(table[moving].value, before[moving])
        torch.testing.assert_close(after[moving], 0.9 * momentum[moving] + table[moving].value.grad)


def test_without_any_gradient_nothing_happens():
    table = rows([(4, 6)])
    muon = muon_of(table)
    before = table[0].value.detach().clone()
    step(muon, weight_decay=0.5)
    assert torch.equal(table[0].value, before)


def test_only_matrices():
    with pytest.raises(AssertionError, match="Muon takes matrices, w0 is"):
        muon_of(rows([(3,)]))
