"""What a recipe says about packing."""

from nutshell.config.struct import Config
from nutshell.quant.config import QuantRule


class PackConfig(Config, frozen=True):
    """The byte budget, decimal, and how roles are quantized; a role that no rule names is stored in fp16."""

    budget_bytes: int
    rules: tuple[QuantRule, ...]

    def __post_init__(self) -> None:
        if self.budget_bytes <= 0:
            raise ValueError(f"budget_bytes must be positive, got {self.budget_bytes}")
        roles = [role for rule in self.rules for role in rule.roles]
        if repeated := sorted({role for role in roles if roles.count(role) > 1}):
            raise ValueError(f"role '{repeated[0]}' is claimed by two rules")
