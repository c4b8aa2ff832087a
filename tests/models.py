"""Small models that several tests share: every technique of the kind tables, alone and together."""

import torch

from nutshell.config.loader import decode
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM

VOCAB = 61
SMALL = {
    "vocab_size": VOCAB,
    "model_dim": 24,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "depth": {"schedule": "0 (1-2)x2 3", "skips": "mirror"},
    "mlp": {"kind": "relu2", "mlp_dim": 40},
    "rotary": {"dims": 4},
}
TECHNIQUES = {
    "none": {},
    "embed_norm": {"inputs": [{"kind": "embed_norm"}]},
    "layer_scale": {"modulate": [{"kind": "layer_scale"}]},
    "xsa": {"heads": [{"kind": "xsa"}]},
    "softcap": {"logits": [{"kind": "softcap", "cap": 3.0}]},
    "plain": {"residual": {"kind": "plain"}},
    "x0_mix": {"residual": {"kind": "x0_mix"}},
    "leaky_relu2": {"mlp": {"kind": "leaky_relu2", "mlp_dim": 40, "slope": 0.5}},
}
ALL_TOGETHER = {
    "inputs": [{"kind": "embed_norm"}],
    "modulate": [{"kind": "layer_scale"}],
    "heads": [{"kind": "xsa"}],
    "logits": [{"kind": "softcap", "cap": 3.0}],
    "residual": {"kind": "x0_mix"},
    "mlp": {"kind": "leaky_relu2", "mlp_dim": 40},
}
CASES = {**TECHNIQUES, "all together": ALL_TOGETHER}


def model_config(**changes) -> ModelConfig:
    """Decode the small model's config with changes."""
    return decode({**SMALL, **changes}, ModelConfig, where="test")


def build_model(config: ModelConfig, *, seed: int = 0, noise: float = 0.1) -> tuple[LM, DepthSchedule]:
    """Build a model; noise moves every parameter off its initial value, so that none can hide behind a zero."""
    schedule = config.depth.parse()
    model = LM(config, [schedule])
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(noise * torch.randn(value.shape, generator=generator))
    return model, schedule


def tokens(batch: int, length: int, *, seed: int = 0) -> torch.Tensor:
    """Draw tokens, int64 [B T]."""
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))
