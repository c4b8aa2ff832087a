"""What a recipe says about packing."""

from typing import Annotated

from msgspec import Meta

from nutshell.config.struct import Config, Kind, kind_of
from nutshell.quant.calibrate import Metric
from nutshell.quant.config import QuantRule


class CalibrationKind(Kind, frozen=True):
    """Base of the texts of a calibration: how many `tokens` of it, and what a Hessian is.

    `metric`: the second moment of a matrix' gradient over its inputs (`"gradients"`), or that of the inputs themselves,
    as GPTQ was published (`"inputs"`).
    """

    tokens: Annotated[int, Meta(ge=1)] = 65_536
    metric: Metric = "gradients"


class TrainingText(CalibrationKind, frozen=True, tag="training"):
    """Calibrate on the first `tokens` of the training text, in an order of the training's own loader."""


class GeneratedText(CalibrationKind, frozen=True, tag="generated"):
    """Calibrate on `tokens` that the model writes itself: no text is needed."""


Calibration = TrainingText | GeneratedText


class PackConfig(Config, frozen=True):
    """The byte budget, decimal, and how roles are quantized; a role that no rule names is stored in fp16.

    `margin_bytes` of the budget stay unused. `calibration` is the text on which rules learn what the loss feels.
    """

    budget_bytes: int
    rules: tuple[QuantRule, ...]
    margin_bytes: int = 0
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if self.budget_bytes <= 0:
            raise ValueError(f"budget_bytes must be positive, got {self.budget_bytes}")
        if not 0 <= self.margin_bytes < self.budget_bytes:
            raise ValueError(f"margin_bytes must be from 0 to below the budget, got {self.margin_bytes}")
        roles = [role for rule in self.rules for role in rule.roles]
        if repeated := sorted({role for role in roles if roles.count(role) > 1}):
            raise ValueError(f"role '{repeated[0]}' is claimed by two rules")
        self._check_calibration()

    @property
    def limit_bytes(self) -> int:
        """The most bytes that an artifact may have: the budget less the margin."""
        return self.budget_bytes - self.margin_bytes

    def _check_calibration(self) -> None:
        if self.calibration is None:
            for rule in self.rules:
                if rule.needs_statistics:
                    raise ValueError(
                        f"the rule '{kind_of(rule)}' for {list(rule.roles)} needs pack.calibration; "
                        'give { kind = "training" } or { kind = "generated" }'
                    )
        elif not any(rule.uses_statistics for rule in self.rules):
            raise ValueError("calibration has no effect: no rule uses one")
