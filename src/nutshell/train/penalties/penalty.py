"""What all penalties share: a weight, and the steps at which they act."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nutshell.config.struct import Kind
from nutshell.nn.params import ParamTable
from nutshell.quant.config import QuantRule


class PenaltyKind(Kind, frozen=True, kw_only=True):
    """`weight` times the penalty joins the objective every `every` steps, from the first on.

    It is the same term however seldom it acts: twice the `every` is half the pressure, and half the cost.
    """

    weight: float
    every: int = 1

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"weight must be positive, got {self.weight}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    def check(self, rules: Sequence[QuantRule]) -> None:
        """Refuse settings that are missing or without effect under the exporter's rules.

        Raises:
            ValueError: there is one.
        """

    @abstractmethod
    def build(self, table: ParamTable, rules: Sequence[QuantRule]) -> "Penalty":
        """Make the term of a model.

        Args:
            table: its parameters.
            rules: the exporter's.

        Raises:
            ValueError: a setting is missing or without effect.
        """


@dataclass(frozen=True, slots=True)
class Penalty:
    """One term of the objective.

    Attributes:
        config: when it acts, and its weight.
        amount: what it is of the weights as they are now; a scalar in fp32, differentiable.
    """

    config: PenaltyKind
    amount: Callable[[], Float[Tensor, ""]]

    def __call__(self, step: int) -> Float[Tensor, ""] | None:
        """Give what joins the objective of step `step`, counted from 0, in nats a token; None if nothing."""
        return None if step % self.config.every else self.config.weight * self.amount()
