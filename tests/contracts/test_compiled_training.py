"""Training as it is compiled, block by block by inductor, computes what eager training does: loss and all gradients.

Inductor takes a minute a case, so these run by `pytest -m slow`. In the default suite `unit/train/test_loss.py` does
the same for a plain model, and `test_techniques.py` compiles every case, whole and without inductor.
"""

import shutil

import pytest
import torch

from models import ALL_TOGETHER, ATTENTION, build_model, model_config, tokens
from nutshell.nn.params import ParamTable
from nutshell.train.compute import Compute
from nutshell.train.config import BudgetConfig, TrainConfig
from nutshell.train.loss import TrainingLoss

B, T = 4, 8
SETTINGS = TrainConfig(budget=BudgetConfig(steps=1), batch_size=B, seq_len=T)
CASES = {
    # Most of what a block can hold, in one region that all blocks share; then the schedule changes under it and back.
    "all together, phases": (ALL_TOGETHER, ("0 (1-2)x2 3", "0-3", "0 (1-2)x2 3")),
    # A block below the lanes, the first with lanes and a later one: three regions.
    "crossed lanes, soft FiLM, factored matrices": (
        {
            "attention": {**ATTENTION, "q": {"kind": "kronecker"}, "out": {"kind": "low_rank", "rank": 5}},
            "mlp": {"kind": "relu2", "mlp_dim": 40, "up": {"kind": "kronecker"}, "down": {"kind": "kronecker"}},
            "depth": {"schedule": "0 (1-2)x2"},
            "modulate": [{"kind": "film", "shift": True, "cap": 1.2, "cap_form": "soft"}],
            "residual": {"kind": "lanes", "from_block": 1, "form": "crossed", "entry": [{"kind": "x0_mix"}]},
        },
        ("0 (1-2)x2",),
    ),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="nothing is compiled here"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore::DeprecationWarning"),  # torch's
]


def trained_on(changes, schedules, *, compiled):
    """Give nats and gradients of a batch under each schedule, in turn, of a model made anew."""
    model, _ = build_model(model_config(**changes))
    loss = TrainingLoss(model, Compute(torch.float32, "products", compiled=compiled), SETTINGS)
    found = []
    for seed, text in enumerate(schedules):
        model.zero_grad()
        value = loss(tokens(B, T, seed=seed), tokens(B, T, seed=seed + 9), model.config.depth.variant(text))
        value.objective.backward()
        found.append((value.nats.item(), {row.name: row.value.grad for row in ParamTable.of(model)}))
    return found


@pytest.mark.parametrize("case", CASES)
def test_compiled_training_is_eager_training(case):
    torch._dynamo.reset()
    eager, compiled = (trained_on(*CASES[case], compiled=compiled) for compiled in (False, True))
    for (nats, gradients), (wanted_nats, wanted) in zip(compiled, eager, strict=True):
        assert nats == pytest.approx(wanted_nats, rel=1e-6)
        assert {name for name, value in gradients.items() if value is None} == {
            name for name, value in wanted.items() if value is None
        }
        for name, value in wanted.items():
            if value is not None:
                assert value.abs().max() > 0.0, name
                torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-5 * value.abs().max().item())
