"""What all modes of quantization-aware training share: which roles, and the exporter's grids for them."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from nutshell.config.struct import Kind
from nutshell.quant.by_role import RateBits, SeenGrid, grids_by_role
from nutshell.quant.config import QuantRole, QuantRule

# From a parameter to what the forward sees in its place; called anew in each forward.
View = Callable[[Float[Tensor, "R C"]], Float[Tensor, "R C"]]


class ModeKind(Kind, frozen=True, kw_only=True):
    """Which roles; by default all that the exporter quantizes."""

    roles: tuple[QuantRole, ...] | None = None

    def grids(self, rules: Sequence[QuantRule]) -> dict[QuantRole, SeenGrid]:
        """Give the exporter's grid of each role.

        Raises:
            ValueError: a setting is missing, without effect, or does not go with these rules.
        """
        return grids_by_role(rules, roles=self.roles, rate_bits=None, who="train.qat")


class ViewKind(ModeKind, frozen=True, kw_only=True):
    """Base of the modes that change what a forward sees, and no weight.

    `rate_bits` are the coded bits a weight to train for. They are needed where a rule of `pack.rules` leaves its
    precision to the budget, for that is met only after the training; `pack.json` of a run says what it came to.
    """

    rate_bits: RateBits | None = None

    def grids(self, rules: Sequence[QuantRule]) -> dict[QuantRole, SeenGrid]:
        return grids_by_role(rules, roles=self.roles, rate_bits=self.rate_bits, who="train.qat")

    @abstractmethod
    def view(self, grid: SeenGrid) -> View:
        """Say what is seen of a parameter on that grid."""
