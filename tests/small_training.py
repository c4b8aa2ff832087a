"""A small run for tests of training: a model, its state, and text that can be learnt."""

from dataclasses import dataclass

import numpy as np
import torch

from models import VOCAB, model_config
from nutshell.model.lm import LM
from nutshell.optim.config import OptimConfig
from nutshell.optim.roles import Optimizers
from nutshell.train.averaging import EmaConfig
from nutshell.train.checkpoint import Identity
from nutshell.train.compute import Compute
from nutshell.train.config import BudgetConfig, TrainConfig
from nutshell.train.gradient import Gradients
from nutshell.train.loop import Plan, train
from nutshell.train.loss import TrainingLoss
from nutshell.train.phases import Phase
from nutshell.train.preparing import prepare
from nutshell.train.state import TrainState

CPU = torch.device("cpu")
IDENTITY = Identity(recipe_digest="r", data_digest="d", seed=0, compute_dtype="fp32")
EAGER = Compute(dtype=torch.float32, attend_kind="fused", compiled=False)
ONCE, TWICE, THRICE = "0-3", "0 (1-2)x2 3", "0 (1-2)x3 3"


class Pattern:
    """A text that can be learnt: counting up, each row from its own start."""

    def batch(self, position, *, batch_size, seq_len, rows=slice(None)):
        starts = np.random.default_rng(position).integers(0, VOCAB, (batch_size, 1))[rows]
        window = (starts + np.arange(seq_len + 1)) % VOCAB
        return window[:, :-1], window[:, 1:]


class Noise:
    """A text without structure."""

    def batch(self, position, *, batch_size, seq_len, rows=slice(None)):
        window = np.random.default_rng(position).integers(0, VOCAB, (batch_size, seq_len + 1))[rows]
        return window[:, :-1], window[:, 1:]


def phase(until, *schedules, batch_size=4, seq_len=16, quantized=False):
    """A phase of the small model's schedules, given as text."""
    variants = tuple(model_config().depth.variant(text) for text in schedules)
    return Phase(until, variants, batch_size, seq_len, quantized)


@dataclass
class SmallRun:
    """What a run is put together from."""

    plan: Plan
    state: TrainState
    gradients: Gradients

    def train(self, on_row=lambda row: None, **options):
        train(self.plan, self.state, self.gradients, on_row, **options)
        return self

    def prepare(self):
        rehearsed = Optimizers(self.state.table, OptimConfig(), dtype=torch.float32)
        return prepare(self.plan.phases, self.state, self.gradients, rehearsed)

    def tensors(self):
        """Everything that a checkpoint keeps, copied."""
        return {name: value.clone() for name, value in self.state.checkpoint(IDENTITY).tensors.items()}


def small_run(tmp_path, *phases, loader=None, model=None, optim=None, micro_batch_size=None, penalties=(), **settings):
    """Put a run together; it has `steps=12` and an exponential average unless told otherwise."""
    budget = settings.pop("budget", None) or BudgetConfig(steps=settings.pop("steps", 12))
    settings = {"averages": (EmaConfig(decay=0.9),), "batch_size": 4, "seq_len": 16, **settings}
    config = TrainConfig(budget=budget, **settings)
    plan = Plan(config, tuple(phases) or (phase(1.0, TWICE),), tmp_path / "checkpoint.safetensors", IDENTITY)
    built = LM(model or model_config(), plan.schedules)
    built.init_weights(0)
    state = TrainState(built, config, OptimConfig(**(optim or {})), dtype=torch.float32)
    gradients = Gradients(
        losses={False: TrainingLoss(built, EAGER, config)},
        loader=loader or Pattern(),
        device=CPU,
        weights=list(state.weights.values()),
        micro_batch_size=micro_batch_size,
        penalties=penalties,
    )
    return SmallRun(plan, state, gradients)
