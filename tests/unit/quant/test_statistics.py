import pytest
import torch

from nutshell.quant.statistics import Statistics


def statistics(rows=3, channels=4):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, channels, generator=generator, dtype=torch.float64)
    return Statistics(inputs.T @ inputs / 50, torch.rand(rows, generator=generator, dtype=torch.float64) + 0.1)


def test_the_cost_of_a_change_is_half_its_square_in_the_metric():
    known = statistics()
    change = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    expected = 0.0
    for row in range(3):
        for i in range(4):
            for j in range(4):
                factor = known.row_weights[row].item() * known.hessian[i, j].item()
                expected += 0.5 * factor * change[row, i].item() * change[row, j].item()
    assert known.cost(change) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("hessian", "row_weights", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.float64), torch.ones(2, dtype=torch.float64), "square"),
        (torch.eye(3, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64), "one weight a row"),
        (torch.eye(3), torch.ones(2, dtype=torch.float64), "float64"),
        (torch.eye(3, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64), "without end"),
    ],
)
def test_what_is_no_metric_is_refused(hessian, row_weights, message):
    with pytest.raises(AssertionError, match=message):
        Statistics(hessian, row_weights)
