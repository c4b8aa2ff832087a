"""The gradient of one step: this rank's rows of the batch, in micro-batches, and whatever is added to the loss."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from nutshell.errors import UsageError
from nutshell.model.depth import DepthSchedule
from nutshell.ranks import ALONE, Ranks
from nutshell.train.clock import Spent
from nutshell.train.loss import TrainingLoss
from nutshell.train.phases import Phase
from nutshell.train.stages import UNWATCHED, Stages

# Keeps what a step draws (the noise of quantization) apart from other draws of the same seed.
_NOISE_STREAM = 2
Batch = tuple[Int64[np.ndarray, "B T"], Int64[np.ndarray, "B T"]]


class Loader(Protocol):
    """Training batches as a pure function of how many tokens were read before: inputs and targets."""

    def batch(self, position: int, *, batch_size: int, seq_len: int, rows: slice = ...) -> Batch: ...


class Penalty(Protocol):
    """A term of the objective that no batch changes, in nats a token; None in a step without it."""

    def __call__(self, step: int) -> Tensor | None: ...


@dataclass(frozen=True, slots=True)
class Gradients:
    """How the gradients of a step are made.

    Attributes:
        losses: the loss, by whether the phase sees its weights quantized.
        loader: where batches come from.
        device: where the losses run.
        weights: the parameters in training.
        seed: of what a step draws.
        micro_batch_size: most windows in one forward; None for all of a rank's.
        ranks: which share of the batch is this process's.
        penalties: what is added to the loss.
        stages: who hears of the stages of a step.
    """

    losses: Mapping[bool, TrainingLoss]
    loader: Loader
    device: torch.device
    weights: Sequence[Tensor]
    seed: int = 0
    micro_batch_size: int | None = None
    ranks: Ranks = ALONE
    penalties: Sequence[Penalty] = ()
    stages: Stages = UNWATCHED

    def check(self, phase: Phase) -> None:
        """Refuse a batch that ranks and micro-batches do not divide.

        Raises:
            UsageError: they do not.
        """
        rows, rest = divmod(phase.batch_size, self.ranks.size)
        if rest:
            raise UsageError(f"train: {self.ranks.size} processes cannot share a batch of {phase.batch_size} windows")
        if rows % min(self.micro_batch_size or rows, rows):
            raise UsageError(
                f"train: micro_batch_size {self.micro_batch_size} does not divide the {rows} windows of a process"
            )

    def make(self, phase: Phase, schedule: DepthSchedule, spent: Spent) -> float:
        """Leave this rank's share of the gradient of a step; return the whole batch's loss in nats a token."""
        share = phase.batch_size // self.ranks.size
        rows = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        sizes = {"batch_size": phase.batch_size, "seq_len": phase.seq_len}
        inputs, targets = self.loader.batch(spent.tokens, **sizes, rows=rows)
        self.stages.done("data")
        if phase.quantized:
            torch.manual_seed(int(np.random.default_rng([self.seed, spent.steps, _NOISE_STREAM]).integers(2**63)))
        nats = self.ranks.add(self.accumulate(phase, schedule, self._moved(inputs), self._moved(targets))).item()
        if math.isfinite(nats):  # else the step ends here, on all ranks, and a penalty could only fail on such weights
            self._penalize(spent.steps)
            self.stages.done("penalties")
        return nats

    def _penalize(self, step: int) -> None:
        """Add the penalties' gradients where the schedule has left any.

        A matrix that it did not reach rests: alone, the gradient of a penalty would move it by Muon's whole step.
        """
        values = [value for penalty in self.penalties if (value := penalty(step)) is not None]
        unreached = [weight for weight in self.weights if weight.grad is None] if values else []
        for value in values:
            (value / self.ranks.size).backward()
        for weight in unreached:
            weight.grad = None

    def accumulate(self, phase: Phase, schedule: DepthSchedule, inputs: Tensor, targets: Tensor) -> Tensor:
        """Add the gradients of this rank's rows; return their part of the batch's mean loss."""
        loss = self.losses[phase.quantized]
        nats = torch.zeros((), device=self.device)
        for some_inputs, some_targets in self._micro_batches(inputs, targets):
            part = loss(some_inputs, some_targets, schedule)
            self.stages.done("loss")
            weight = len(some_inputs) / phase.batch_size
            (weight * part.objective).backward()
            nats += weight * part.nats
            self.stages.done("backward")
        return nats

    def _micro_batches(self, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        size = self.micro_batch_size or len(inputs)
        return zip(inputs.split(size), targets.split(size), strict=True)

    def _moved(self, tokens: Int64[np.ndarray, "B T"]) -> Tensor:
        return torch.from_numpy(tokens).to(self.device, non_blocking=True)
