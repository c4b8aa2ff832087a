"""Score-first SGD: a copy of the whole model learns from each chunk of a text once it is scored.

What:      for some epochs over a chunk, one step of SGD for each batch of its sequences, on their mean loss; momentum
           lasts from chunk to chunk, the rate falls as half a cosine over the text, and nothing is ever reset.
Source:    openai/parameter-golf 549, 686 and 1493 (shared/spec/recur45-686.md 1.18, sp8192-loop36.md 1.6). There the
           tables were bf16, so that most steps rounded to nothing; here all weights are fp32. There "freezing" left the
           matrices of the frozen blocks to learn; here what is frozen stays, to the bit.
Ranks:     each takes its share of every batch's sequences; gradients are summed as one tensor, so that any number of
           sequences goes with any number of ranks, and all hold the same weights.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.config.struct import Config
from nutshell.errors import RecipeError
from nutshell.model.depth import VirtualLayer
from nutshell.model.lm import LM
from nutshell.model.seams import Stream
from nutshell.optim.clipping import clip
from nutshell.predict.predictor import ModelPredictor, Positions, Shipped
from nutshell.ranks import ALONE, Ranks

# What pads a target: no loss there.
_NOTHING = -100


class SGDConfig(Config, frozen=True):
    """How a model learns from what has been scored.

    Attributes:
        lr: Rate at the first chunk.
        momentum: Of the steps, over all chunks.
        epochs: Times that a chunk is learned from.
        batch_targets: Targets of one step, in whole sequences; None: a chunk is one step.
        clip: Longest gradient; None: any.
        freeze: Weights that do not learn: patterns of their names (`embedding`, `blocks.0.*`).
        untie: Whether each visit of a shared block learns by itself, from the same weights.
    """

    lr: float
    momentum: float = 0.9
    epochs: int = 3
    batch_targets: int | None = None
    clip: float | None = 1.0
    freeze: tuple[str, ...] = ()
    untie: bool = False

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError(f"lr {self.lr} must not be negative")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} must be at least 0 and below 1")
        if self.epochs < 1:
            raise ValueError(f"epochs {self.epochs} must be at least 1")
        if self.batch_targets is not None and self.batch_targets < 1:
            raise ValueError(f"batch_targets {self.batch_targets} must be at least 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip {self.clip} must be above 0")


class Seen(Protocol):
    """A stretch of text that has been scored: the token before each target, and the targets."""

    @property
    def inputs(self) -> Int64[np.ndarray, " T"]: ...

    @property
    def targets(self) -> Int64[np.ndarray, " T"]: ...


class SGDLearner(ModelPredictor):
    """A predictor whose weights learn; the model that it was made from stays as it is.

    Raises:
        RecipeError: a pattern of frozen weights that none has, or nothing left to learn.
    """

    def __init__(
        self,
        shipped: Shipped,
        config: SGDConfig,
        *,
        context: int | None = None,
        positions: Positions = "rescaled",
        batch_tokens: int = 2_048,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(shipped, context=context, positions=positions)
        self.model = self._model = copy.deepcopy(shipped.model)
        if config.untie:
            _untie(self.model, shipped)
        self.schedule = shipped.schedule
        self._config, self._batch_tokens, self._ranks = config, batch_tokens, ranks
        self._learning = _learning(self.model, config.freeze)
        self._velocity = [torch.zeros_like(value) for value in self._learning]

    def observe(self, chunk: Sequence[Seen], progress: float) -> None:
        """Learn from what was scored, in sequences of the context that do not overlap."""
        lr = self._config.lr * 0.5 * (1 + math.cos(math.pi * progress))
        sequences = [sequence for seen in chunk for sequence in _cut(seen, self.context)]
        for value in self._learning:
            value.requires_grad_(True)
        for _ in range(self._config.epochs):
            for batch in self._batches(sequences):
                self._step(batch, lr)
        for value in self._learning:
            value.requires_grad_(False)

    def _batches(self, sequences: list[Any]) -> Iterator[list[Any]]:
        """Group sequences in their order into batches of as many targets as one step learns from."""
        size = self._config.batch_targets
        batch, targets = [], 0
        for sequence in sequences:
            batch.append(sequence)
            targets += len(sequence[1])
            if size is not None and targets >= size:
                yield batch
                batch, targets = [], 0
        if batch:
            yield batch

    def _step(self, batch: list[Any], lr: float) -> None:
        """Take one step down the mean loss of a batch."""
        num_targets = sum(len(targets) for _, targets in batch)
        grads = self._gradients(batch[self._ranks.rank :: self._ranks.size])
        flat = self._ranks.add(torch.cat([grad.flatten() for grad in grads]).div_(num_targets))
        # fp32 sums of millions of squares are off in the fifth digit, and every step by that much.
        clip([flat], torch.linalg.vector_norm(flat, dtype=torch.float64).item(), self._config.clip)
        parts = flat.split([value.numel() for value in self._learning])
        with torch.no_grad():
            for value, velocity, part in zip(self._learning, self._velocity, parts, strict=True):
                velocity.mul_(self._config.momentum).add_(part.view_as(velocity))
                value.sub_(velocity, alpha=lr)

    def _gradients(self, sequences: list[Any]) -> list[Tensor]:
        """Give the gradient of the summed loss of this rank's sequences."""
        total = [torch.zeros_like(value) for value in self._learning]
        rows = max(1, self._batch_tokens // self.context)
        for first in range(0, len(sequences), rows):
            inputs, targets = _padded(sequences[first : first + rows])
            logits = self._logits(inputs, last=inputs.shape[1])
            loss = F.cross_entropy(
                logits.flatten(0, 1), torch.from_numpy(targets).flatten(), ignore_index=_NOTHING, reduction="sum"
            )
            grads = torch.autograd.grad(loss, self._learning, allow_unused=True)
            for sum_, grad in zip(total, grads, strict=True):
                if grad is not None:
                    sum_.add_(grad)
        return total


class PerVisit(nn.Module):
    """A block whose visits have weights of their own: one block each."""

    def __init__(self, block: nn.Module, num_visits: int) -> None:
        super().__init__()
        self.visits = nn.ModuleList(copy.deepcopy(block) for _ in range(num_visits))

    def forward(self, state: Any, visit: VirtualLayer, stream: Stream) -> Any:
        return self.visits[visit.iteration](state, visit, stream)


def _untie(model: LM, shipped: Shipped) -> None:
    visits = [visit.block for visit in shipped.schedule.visits]
    if max(map(visits.count, visits)) == 1:
        raise RecipeError(f"untie has no effect: schedule '{shipped.schedule.text}' visits each block once")
    for place, block in enumerate(model.blocks):
        if visits.count(place) > 1:
            model.blocks[place] = PerVisit(block, visits.count(place))


def _learning(model: LM, freeze: Sequence[str]) -> list[nn.Parameter]:
    weights = dict(model.named_parameters())
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in weights):
            raise RecipeError(f"freeze '{pattern}' is no weight of this model, as 'embedding' or 'blocks.0.*' may be")
    learning = [value for name, value in weights.items() if not any(fnmatchcase(name, pattern) for pattern in freeze)]
    if not learning:
        raise RecipeError("every weight is frozen: nothing learns; score with a frozen strategy")
    return learning


def _cut(seen: Seen, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(seen.targets), length):
        yield seen.inputs[start : start + length], seen.targets[start : start + length]


def _padded(sequences: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Lay sequences side by side, padded on the right."""
    shape = (len(sequences), max(len(targets) for _, targets in sequences))
    inputs, targets = np.zeros(shape, dtype=np.int64), np.full(shape, _NOTHING, dtype=np.int64)
    for row, (own_inputs, own_targets) in enumerate(sequences):
        inputs[row, : len(own_inputs)] = own_inputs
        targets[row, : len(own_targets)] = own_targets
    return inputs, targets
