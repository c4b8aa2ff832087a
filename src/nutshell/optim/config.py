"""What a recipe says about optimization."""

from nutshell.config.struct import Config


class OptimConfig(Config, frozen=True):
    """Learning rates by role, Muon's and AdamW's constants, and how both fade out.

    `matrix_*` steer Muon (role matrix), `embed_*` AdamW on embedding and head, `scalar_*` AdamW on all other roles.
    Momentum rises linearly from `momentum_start` over the first `momentum_warmup_frac` of the run. Learning rates are
    constant, then fall linearly over the last `warmdown_frac` to `warmdown_floor` of themselves.
    """

    matrix_lr: float = 0.02
    embed_lr: float = 0.03
    scalar_lr: float = 0.02
    matrix_weight_decay: float = 0.0
    embed_weight_decay: float = 0.0
    scalar_weight_decay: float = 0.0
    momentum: float = 0.95
    momentum_start: float = 0.85
    momentum_warmup_frac: float = 0.1
    newton_schulz_steps: int = 5
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    grad_clip: float | None = None
    warmdown_frac: float = 0.7
    warmdown_floor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("momentum_warmup_frac", "warmdown_frac", "warmdown_floor", "momentum", "momentum_start"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("matrix_lr", "embed_lr", "scalar_lr", "newton_schulz_steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ValueError(f"grad_clip must be positive, got {self.grad_clip}")
