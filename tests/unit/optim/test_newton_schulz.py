import numpy as np
import pytest
import torch

from nutshell.optim.newton_schulz import MARGIN, orthogonalise, quintics

SHAPES = [(8, 8), (4, 12), (12, 4), (48, 48), (64, 16)]


def found(updates, coefficients, steps=5, dtype=torch.float32):
    return orthogonalise(updates, quintics(coefficients, steps), margin=MARGIN[coefficients], dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("coefficients", "low", "high"), [("jordan", 0.65, 1.25), ("polar_express", 0.84, 1.16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_end_near_one(shape, coefficients, low, high, dtype):
    """Matrices without tiny singular values: those need more steps than five."""
    generator = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(3, max(shape), min(shape), generator=generator))
    values = torch.linspace(0.02, 1.0, min(shape))
    updates = q * values @ torch.linalg.qr(torch.randn(3, min(shape), min(shape), generator=generator))[0].mT
    updates = 7.0 * (updates if shape[0] >= shape[1] else updates.mT)
    singular = torch.linalg.svdvals(found(updates, coefficients, dtype=dtype).float())
    assert singular.min() > low
    assert singular.max() < high


def polynomial(values, triples):
    for a, b, c in triples:
        values = a * values + b * values**3 + c * values**5
    return values


def test_polar_express_reaches_smaller_values_and_ends_nearer_to_one():
    """The paper's claim, in numbers: what five steps make of all values in [0.001, 1], in fp64."""
    values = np.geomspace(1e-3, 1.0, 20_001)
    jordan = polynomial(values, quintics("jordan", 5))
    polar = polynomial(values / 1.02, quintics("polar_express", 5))
    assert jordan.min() < 0.5 < 0.84 < polar.min()
    assert polar.max() < 1.15 < 1.2 < jordan.max()


def test_polar_express_needs_its_margin():
    """A largest value of 1.02 still ends near 1; one of 1.03 diverges."""
    at_the_edge, beyond = polynomial(np.array([1.02, 1.03]), quintics("polar_express", 5))
    assert 0.84 < at_the_edge < 1.15
    assert beyond > 1e6
    assert MARGIN["polar_express"] >= 0.02


@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
@pytest.mark.parametrize("coefficients", ["jordan", "polar_express"])
def test_it_is_an_odd_polynomial_of_the_singular_values(shape, coefficients):
    """Newton-Schulz keeps the singular vectors and maps each value by one quintic a step."""
    update = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(update, full_matrices=False)
    s = polynomial(s / (s.norm() * (1.02 if coefficients == "polar_express" else 1.0)), quintics(coefficients, 5))
    result = found(update.float()[None], coefficients)[0]
    torch.testing.assert_close(result, (u * s @ vt).float(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("coefficients", ["jordan", "polar_express"])
def test_nothing_stays_nothing_and_a_scale_does_not_matter(coefficients):
    assert not found(torch.zeros(2, 4, 6), coefficients).any()
    updates = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found(1e3 * updates, coefficients), found(updates, coefficients), atol=1e-5, rtol=1e-5)


def test_polar_express_has_five_steps():
    with pytest.raises(ValueError, match="polar_express has coefficients for 5 steps, got 6"):
        quintics("polar_express", 6)
    assert len(quintics("polar_express", 3)) == 3
    assert len(quintics("jordan", 9)) == 9
