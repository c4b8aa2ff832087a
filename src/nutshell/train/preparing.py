"""What happens before the clock: every graph of the run is compiled and run once, and leaves no trace in the state."""

import time
from collections.abc import Sequence

import torch

from nutshell.optim.roles import Optimizers
from nutshell.train.gradient import Gradients
from nutshell.train.phases import Phase
from nutshell.train.state import TrainState


def prepare(phases: Sequence[Phase], state: TrainState, gradients: Gradients, rehearsed: Optimizers) -> float:
    """Run every phase's graphs and an optimizer step on synthetic tokens; return the seconds that it took.

    Afterwards weights and random state are bit for bit what they were. Optimizer state and averages are untouched, for
    the steps are those of optimizers that are thrown away.

    Args:
        phases: the run's phases, each with the sizes and schedules of its own.
        state: the run's state.
        gradients: how gradients are made; no batch is loaded.
        rehearsed: optimizers over the same weights as the run's own.

    Raises:
        UsageError: a phase's batch cannot be shared among the ranks.
    """
    start = time.perf_counter()
    for phase in phases:
        gradients.check(phase)
    weights = {name: value.detach().clone() for name, value in state.weights.items()}
    with torch.random.fork_rng():
        for phase in dict.fromkeys(phase._replace(until=1.0) for phase in phases):
            tokens = _synthetic(phase, gradients, state.model.config.vocab_size)
            for schedule in phase.schedules:
                gradients.accumulate(phase, schedule, tokens, tokens)
            rehearsed.step(0.0)
    with torch.no_grad():
        for name, value in state.weights.items():
            value.copy_(weights[name])
    return time.perf_counter() - start


def num_compiled() -> int:
    """Count the graphs that this process has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _synthetic(phase: Phase, gradients: Gradients, vocab_size: int) -> torch.Tensor:
    rows = phase.batch_size // gradients.ranks.size
    return torch.arange(rows * phase.seq_len, device=gradients.device).reshape(rows, -1) % vocab_size
