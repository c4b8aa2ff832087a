"""Cross-entropy, label smoothing and z-loss against loops in float64, and against what they do in simple cases."""

import math

import pytest
import torch

from nutshell.nn.kernels.cross_entropy import Smoothing, cross_entropy

N, V = 7, 11


def logits(seed=0, scale=3.0):
    return scale * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))


def targets():
    return torch.randint(V, (N,), generator=torch.Generator().manual_seed(1))


def by_hand(z, y, *, smoothing, weight):
    """Mean of the cross-entropy with the targets' distribution written out, and of the square of log Z."""
    nats, objective = 0.0, 0.0
    for row, target in zip(z.double().tolist(), y.tolist(), strict=True):
        log_z = math.log(math.fsum(math.exp(value) for value in row))
        wanted = [smoothing / V + (1 - smoothing) * (index == target) for index in range(V)]
        nats += (log_z - row[target]) / N
        objective += math.fsum(w * (log_z - value) for w, value in zip(wanted, row, strict=True)) / N
        objective += weight * log_z**2 / N
    return nats, objective


@pytest.mark.parametrize(("smoothing", "weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 1e-2), (0.3, 0.5)])
def test_both_means_are_the_sums_written_out(smoothing, weight):
    nats, objective = by_hand(logits(), targets(), smoothing=smoothing, weight=weight)
    loss = cross_entropy(logits(), targets(), Smoothing(smoothing, weight))
    assert loss.nats.item() == pytest.approx(nats, rel=1e-6)
    assert loss.objective.item() == pytest.approx(objective, rel=1e-6)
    assert not loss.nats.requires_grad


@pytest.mark.parametrize(("smoothing", "weight"), [(0.0, 0.0), (0.3, 0.5)])
def test_the_gradient_is_softmax_less_the_wanted_distribution(smoothing, weight):
    z, y = logits().double().requires_grad_(), targets()
    cross_entropy(z, y, Smoothing(smoothing, weight)).objective.backward()
    for row in range(N):
        exponentials = [math.exp(value) for value in z[row].tolist()]
        log_z = math.log(sum(exponentials))
        for index in range(V):
            p = exponentials[index] / sum(exponentials)
            wanted = smoothing / V + (1 - smoothing) * (index == y[row].item())
            assert z.grad[row, index].item() == pytest.approx((p - wanted + 2 * weight * log_z * p) / N, abs=1e-12)


def test_even_logits_cost_the_logarithm_of_the_vocabulary_however_smooth():
    loss = cross_entropy(torch.full((N, V), 2.5), targets(), Smoothing(0.2, 0.0))
    assert loss.nats.item() == pytest.approx(math.log(V))
    assert loss.objective.item() == pytest.approx(math.log(V))


def test_z_loss_alone_sees_a_shift_of_all_logits():
    plain, shifted = (cross_entropy(z, targets(), Smoothing(0.1, 1e-2)) for z in (logits(), logits() + 4.0))
    log_z = torch.logsumexp(logits().double(), dim=-1)
    assert shifted.nats.item() == pytest.approx(plain.nats.item(), rel=1e-5)
    added = 1e-2 * ((log_z + 4.0) ** 2 - log_z**2).mean().item()
    assert (shifted.objective - plain.objective).item() == pytest.approx(added, rel=1e-4)


def test_large_logits_do_not_overflow():
    z = torch.zeros(1, V)
    z[0, 3] = 1e4
    assert cross_entropy(z, torch.tensor([3]), Smoothing()).nats.item() == 0.0
    assert cross_entropy(z, torch.tensor([4]), Smoothing()).nats.item() == pytest.approx(1e4)
