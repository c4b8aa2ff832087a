"""What a recipe says about optimization."""

from typing import Literal

from nutshell.config.curve import Curve, check_curve, values_of
from nutshell.config.struct import Config
from nutshell.optim.newton_schulz import Coefficients, quintics

# No rate or decay of sense comes near them, and even their product is a number in fp32, which kernels take them in.
LARGEST, LARGEST_DECAY = 1e30, 1e6


class MuonConfig(Config, frozen=True):
    """How Muon makes a direction of a gradient (docs/optimizers.md).

    `row_norm` brings all rows of an update to length 1 before Newton-Schulz (MuonEq-R).
    """

    coefficients: Coefficients = "jordan"
    steps: int = 5
    row_norm: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be positive, got {self.steps}")
        quintics(self.coefficients, self.steps)


DECAYS = ("matrix_weight_decay", "embed_weight_decay", "scalar_weight_decay")


class OptimConfig(Config, frozen=True):
    """Learning rates and weight decays by role, Muon's and AdamW's constants, and how they change over the run.

    `matrix_*` steer Muon (role matrix), `embed_*` AdamW on embedding and head, `scalar_*` AdamW on gates, gains and
    scales. `projections` says which of the two trains the projections outside blocks: Muon as a matrix, or AdamW as a
    scalar. All rates are multiplied by `lr_curve`; decays and momentum are curves of their own (config/curve.py).
    `grad_clip` bounds the norm of the whole gradient, after the ranks' shares are added.
    """

    matrix_lr: float = 0.02
    embed_lr: float = 0.03
    scalar_lr: float = 0.02
    lr_curve: Curve = ((0.3, 1.0), (1.0, 0.0))
    matrix_weight_decay: Curve = 0.0
    embed_weight_decay: Curve = 0.0
    scalar_weight_decay: Curve = 0.0
    momentum: Curve = ((0.0, 0.85), (0.1, 0.95))
    muon: MuonConfig = MuonConfig()
    projections: Literal["muon", "adamw"] = "muon"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    grad_clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("lr_curve", "momentum"):
            check_curve(name, getattr(self, name), 0.0, 1.0)
        for name in DECAYS:
            check_curve(name, getattr(self, name), 0.0, LARGEST_DECAY)
        if not any(values_of(self.lr_curve)):
            raise ValueError("lr_curve is 0 throughout: nothing would be trained")
        for name in ("matrix_lr", "embed_lr", "scalar_lr", "adam_eps"):
            if not 0.0 < getattr(self, name) <= LARGEST:
                raise ValueError(f"{name} must be positive and at most {LARGEST:g}, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip must be positive, got {self.grad_clip}")

    def scheduled_decays(self) -> dict[str, Curve]:
        """Give the weight decays that change over the run, by name."""
        decays: dict[str, Curve] = {name: getattr(self, name) for name in DECAYS}
        return {name: curve for name, curve in decays.items() if isinstance(curve, tuple)}
