"""Matrices with gradients, for tests of what updates them."""

import torch

from nutshell.nn.params import ParamRow, parameter


def rows(shapes, *, role="matrix", seed=0):
    """Parameters of these shapes, standard normal."""
    generator = torch.Generator().manual_seed(seed)
    return [
        ParamRow(f"w{number}", role, parameter(torch.randn(shape, generator=generator), role))
        for number, shape in enumerate(shapes)
    ]


def give_gradients(table, seed):
    """Set every gradient, standard normal."""
    generator = torch.Generator().manual_seed(seed)
    for row in table:
        row.value.grad = torch.randn(row.shape, generator=generator)


def step(muon, *, lr_scale=1.0, momentum=0.9, weight_decay=0.0):
    """One whole update of Muon alone."""
    muon.step(muon.sum_gradients(), lr_scale=lr_scale, momentum=momentum, weight_decay=weight_decay)()
