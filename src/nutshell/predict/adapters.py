"""Score-first adapters: each document learns low-rank corrections of its own while it is scored, and takes them along.

What:      after each step of a document, one step of AdamW on the factors of every matrix (nn/adapters.py), down the
           mean loss of the targets that were just scored. The model itself stays as it is.
Source:    openai/parameter-golf 1530 and 1767 (shared/spec/sp8192-loop36.md 5.2).
Init:      A normal with variance 1/C, the same for all rows; B zero, so that a document begins with the frozen model.
Cost:      one forward, which serves scoring and learning alike, and one backward; the published evaluators run two
           forwards.
Ranks:     rows never meet, so any number of ranks gives the same, unless A is kept from batch to batch.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.config.struct import Config
from nutshell.errors import RecipeError
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.seams import Stream
from nutshell.nn.adapters import HEAD, Adapters, Factors, Place
from nutshell.predict.predictor import ModelPredictor, ModelStepper, Shipped

MatrixName = Literal["q", "k", "v", "out", "up", "gate", "down", "head"]


class AdapterConfig(Config, frozen=True):
    """How a document's corrections learn.

    Attributes:
        rank: Of each correction.
        alpha: A correction counts alpha / rank times.
        lr: Rate of AdamW.
        betas: Decay of its two means.
        weight_decay: Of the factors, towards the frozen model.
        matrices: Which matrices are corrected, at every visit; all that the model has unless given.
        keep_a: Whether a batch of documents begins with the factors A of the batch before, of B zero.
        seed: Of the first A.
    """

    rank: int = 8
    alpha: float = 8.0
    lr: float = 3e-3
    betas: tuple[float, float] = (0.0, 0.99)
    weight_decay: float = 0.0
    matrices: tuple[MatrixName, ...] = ()
    keep_a: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank} must be at least 1")
        if not self.alpha > 0:
            raise ValueError(f"alpha {self.alpha} must be above 0")
        if self.lr < 0 or self.weight_decay < 0:
            raise ValueError(f"lr {self.lr} and weight_decay {self.weight_decay} must not be negative")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)} must be at least 0 and below 1")
        if len(set(self.matrices)) < len(self.matrices):
            raise ValueError(f"matrices {list(self.matrices)} names one twice")


class Seen(Protocol):
    """A stretch of text that has been scored."""

    @property
    def targets(self) -> Int64[np.ndarray, " T"]: ...


class DocumentAdapters(ModelPredictor):
    """A predictor whose rows learn; the model that it is made from may change between batches, not within one.

    Raises:
        RecipeError: the model has no such matrix.
    """

    def __init__(self, shipped: Shipped, config: AdapterConfig) -> None:
        super().__init__(shipped)
        self._config = config
        self._shapes = adapted_shapes(self._model, self._schedule, config.matrices)
        generator = torch.Generator().manual_seed(config.seed)
        self._drawn = {
            place: torch.randn(config.rank, in_dim, generator=generator) / in_dim**0.5
            for place, (in_dim, _) in self._shapes.items()
        }
        self.begin(1)

    def begin(self, rows: int) -> None:
        """Start rows that have learned nothing; with `keep_a`, from the factors A of the rows before."""
        before = self._factors if self._config.keep_a and hasattr(self, "_factors") else {}
        self._factors = {place: self._fresh(place, rows, before.get(place)) for place in self._shapes}
        self._optimizer = self._optimizer_of()
        self._losses = None

    def _fresh(self, place: Place, rows: int, before: Factors | None) -> Factors:
        a = self._drawn[place].expand(rows, -1, -1).clone()
        if before is not None:
            kept = min(rows, len(before.a))
            a[:kept] = before.a.detach()[:kept]
        b = torch.zeros(rows, self._shapes[place][1], self._config.rank)
        return Factors(a.requires_grad_(), b.requires_grad_())

    def _optimizer_of(self) -> torch.optim.AdamW:
        config = self._config
        values = [value for factors in self._factors.values() for value in factors]
        return torch.optim.AdamW(
            values, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, foreach=True
        )

    @property
    def adapters(self) -> Adapters:
        """What the rows have learned so far."""
        return Adapters(self._factors, self._config.alpha / self._config.rank)

    def nats(self, inputs: Int64[np.ndarray, "B T"], targets: Int64[np.ndarray, "B S"]) -> Float64[np.ndarray, "B S"]:
        """Return -log p of the targets of the last S inputs, and keep what learning from them needs."""
        stream = self._model.stream(
            torch.from_numpy(inputs), dtype=torch.float32, attend_kind="fused", rotary_base=self._rotary_base
        )
        stream = stream._replace(adapters=self.adapters)
        x = self._model.trunk(stream, self._schedule)
        logits = self._model.read_out(x[:, -targets.shape[1] :], stream)
        losses = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten(), reduction="none")
        self._losses, self._targets = losses.view(targets.shape), targets
        return self._losses.detach().double().numpy()

    def observe(self, scored: Sequence[Seen]) -> None:
        """Take one step for each row, down the mean loss of what was scored of it."""
        assert self._losses is not None, "nothing was scored since the last step"
        lengths = [len(seen.targets) for seen in scored]
        assert all(
            np.array_equal(seen.targets, own[:length])
            for seen, own, length in zip(scored, self._targets, lengths, strict=True)
        ), "these are not the targets that were scored last"
        weights = torch.zeros_like(self._losses)
        for row, length in enumerate(lengths):
            weights[row, :length] = 1 / length
        self._optimizer.zero_grad()
        (self._losses * weights).sum().backward()
        self._optimizer.step()
        self._losses = None

    def keep(self, rows: Int[np.ndarray, " N"]) -> None:
        """Drop all rows but these, with what they have learned."""
        chosen = torch.from_numpy(rows)
        states = [self._optimizer.state[value] for factors in self._factors.values() for value in factors]
        self._factors = {
            place: Factors(*(value.detach()[chosen].requires_grad_() for value in factors))
            for place, factors in self._factors.items()
        }
        self._optimizer = self._optimizer_of()
        values = [value for factors in self._factors.values() for value in factors]
        for value, state in zip(values, states, strict=True):
            if state:
                moments = {name: state[name][chosen] for name in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[value] = {"step": state["step"], **moments}


class AdaptedStepper(ModelStepper):
    """Reads one token at a time with what the rows of a learner have learned; their number is the learner's."""

    def __init__(self, shipped: Shipped, learner: DocumentAdapters) -> None:
        super().__init__(shipped)
        self._learner = learner

    def _stream(self, tokens: Int64[np.ndarray, "B T"]) -> Stream:
        return super()._stream(tokens)._replace(adapters=self._learner.adapters)


def adapted_shapes(model: LM, schedule: DepthSchedule, names: Sequence[MatrixName]) -> dict[Place, tuple[int, int]]:
    """Give inputs and outputs of every matrix that is corrected, by place.

    Raises:
        RecipeError: the model has no such matrix.
    """
    config = model.config
    of_block = config.attention.shapes(config.model_dim) | config.mlp.shapes(config.model_dim)
    vocab_size, width = model.head_weight.shape
    all_shapes = of_block | {"head": (width, vocab_size)}
    if unknown := [name for name in names if name not in all_shapes]:
        raise RecipeError(f"matrices: this model has no '{unknown[0]}', only {', '.join(all_shapes)}")
    chosen = names or tuple(all_shapes)
    places = {(visit.index, name): shape for visit in schedule.visits for name, shape in of_block.items()}
    places[HEAD] = all_shapes["head"]
    return {place: shape for place, shape in places.items() if place[1] in chosen}
