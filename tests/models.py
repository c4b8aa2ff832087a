"""Small models that several tests share: every technique of the kind tables, alone, together, and as recipes do."""

import torch

from nutshell.config.loader import decode
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from small_recipes import SMALLER, small_recipes

VOCAB = SMALLER["vocab_size"]
BOS = 1
ATTENTION = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "rotary": {"dims": 4}}
DEPTH = {"schedule": "0 (1-2)x2 3", "skips": "mirror"}
SMALL = {
    "vocab_size": VOCAB,
    "model_dim": 24,
    "attention": ATTENTION,
    "depth": DEPTH,
    "mlp": {"kind": "relu2", "mlp_dim": 40},
}
FIRST_BIGRAM_HASH = {"kind": "bigram_hash", "hash": "product", "scaled": False, "zero": "projection"}
TECHNIQUES = {
    "none": {},
    "embed_norm": {"inputs": [{"kind": "embed_norm"}]},
    "bigram_hash": {"inputs": [{"kind": "bigram_hash", "buckets": 37, "dim": 6}]},
    "bigram_hash on a silent projection": {
        "inputs": [{"kind": "bigram_hash", "buckets": 37, "dim": 6, "zero": "projection"}]
    },
    "bigram_hash as first published": {"inputs": [{**FIRST_BIGRAM_HASH, "buckets": 37, "dim": 6}]},
    "smear_gate": {"inputs": [{"kind": "smear_gate"}]},
    "smear_gate across documents": {"inputs": [{"kind": "smear_gate", "mask_bos": False}]},
    "smear_gate by token": {"inputs": [{"kind": "smear_gate", "form": "token", "width": 5}]},
    "layer_scale": {"modulate": [{"kind": "layer_scale"}]},
    "xsa": {"heads": [{"kind": "xsa"}]},
    "xsa under an output norm": {"heads": [{"kind": "xsa"}], "norms": {"attention": "output"}},
    "xsa under peri norms": {"heads": [{"kind": "xsa"}], "norms": {"attention": "peri"}},
    "attention_gate": {"heads": [{"kind": "attention_gate", "inputs": 5}]},
    "attention_gate with bias": {"heads": [{"kind": "attention_gate", "ceiling": 1.0, "bias": 4.0}]},
    "softcap": {"logits": [{"kind": "softcap", "cap": 3.0}]},
    "asym_softcap": {"logits": [{"kind": "asym_softcap", "above": 3.0, "below": 2.0}]},
    "asym_softcap with fixed caps": {
        "logits": [{"kind": "asym_softcap", "above": 3.0, "below": 2.0, "learned": False}]
    },
    "branch_scale": {"modulate": [{"kind": "branch_scale"}]},
    "branch_scale by visit": {"modulate": [{"kind": "branch_scale", "attention": "visit", "mlp": "visit"}]},
    "film": {"modulate": [{"kind": "film"}]},
    "film with shift": {"modulate": [{"kind": "film", "shift": True, "cap": 1.5}]},
    "film shift alone": {"modulate": [{"kind": "film", "scale": False, "shift": True, "blocks": "1-2"}]},
    "film with soft cap": {"modulate": [{"kind": "film", "cap": 1.2, "cap_form": "soft"}]},
    "norm_gain": {"modulate": [{"kind": "norm_gain"}]},
    "norm_gain by block": {"modulate": [{"kind": "norm_gain", "per": "block"}]},
    "branch_scale by deviation": {"modulate": [{"kind": "branch_scale", "attention": "deviation", "mlp": "deviation"}]},
    "layer_scale by index": {"modulate": [{"kind": "layer_scale", "by": "index"}]},
    "value_embedding": {"values": [{"kind": "value_embedding", "dim": 6}]},
    "value_embedding by visit": {"values": [{"kind": "value_embedding", "dim": 6, "per": "visit", "blocks": "1-2"}]},
    "value_residual": {"values": [{"kind": "value_residual"}]},
    "value_residual by visit": {"values": [{"kind": "value_residual", "per": "visit"}]},
    "sequential": {"residual": {"kind": "sequential"}},
    "parallel": {"residual": {"kind": "parallel", "from_block": 2}},
    "parallel with x0 mix": {"residual": {"kind": "parallel", "from_block": 2, "entry": [{"kind": "x0_mix"}]}},
    "lanes": {"residual": {"kind": "lanes", "from_block": 1, "entry": [{"kind": "x0_mix"}]}},
    "lanes crossed": {"residual": {"kind": "lanes", "from_block": 1, "form": "crossed", "entry": [{"kind": "x0_mix"}]}},
    "bounded": {"residual": {"kind": "bounded", "entry": [{"kind": "depth_embedding"}]}},
    "x0_mix": {"residual": {"kind": "sequential", "entry": [{"kind": "x0_mix"}]}},
    "x0_mix by deviation": {"residual": {"kind": "sequential", "entry": [{"kind": "x0_mix", "per": "deviation"}]}},
    "x0_mix by visit": {"residual": {"kind": "sequential", "entry": [{"kind": "x0_mix", "per": "visit"}]}},
    # In the first virtual layer, which is block 0's, the stream is still x0, and Birkhoff mixing does nothing.
    "birkhoff": {"residual": {"kind": "sequential", "entry": [{"kind": "birkhoff", "blocks": "1-3"}]}},
    "birkhoff by visit": {
        "residual": {
            "kind": "sequential",
            "entry": [{"kind": "birkhoff", "init_logit": 2.0, "per": "visit", "blocks": "1-3"}],
        }
    },
    "depth_embedding": {"residual": {"kind": "sequential", "entry": [{"kind": "depth_embedding"}, {"kind": "x0_mix"}]}},
    "depth_sinusoid": {"residual": {"kind": "sequential", "entry": [{"kind": "depth_sinusoid"}]}},
    "stream_smear": {"residual": {"kind": "sequential", "entry": [{"kind": "stream_smear"}, {"kind": "x0_mix"}]}},
    "stream_smear across documents": {
        "residual": {"kind": "parallel", "from_block": 2, "entry": [{"kind": "stream_smear", "mask_bos": False}]}
    },
    "add_skip": {"depth": {**DEPTH, "skips": "stack", "join": {"kind": "add_skip"}}},
    "gated_skip": {"depth": {**DEPTH, "join": {"kind": "gated_skip"}}},
    "untied mlp": {"depth": {**DEPTH, "untied": "mlp"}},
    "untied attention": {"depth": {**DEPTH, "untied": "attention"}},
    "output norms": {"norms": {"attention": "output", "mlp": "output"}},
    "peri norms": {"norms": {"attention": "peri", "mlp": "peri"}},
    "q gain by visit": {"attention": {**ATTENTION, "q_gain_per": "visit"}},
    "within documents": {"attention": {**ATTENTION, "within_documents": True}},
    "untied head": {"tied_head": False},
    "narrow embedding": {"embedding_dim": 10},
    "narrow embedding and untied head": {
        "embedding_dim": 10,
        "tied_head": False,
        "inputs": [{"kind": "bigram_hash", "buckets": 37, "dim": 6}, {"kind": "embed_norm"}, {"kind": "smear_gate"}],
        "logits": [{"kind": "softcap", "cap": 3.0}],
    },
    "wide embedding": {"embedding_dim": 30},
    "low_rank": {
        "attention": {**ATTENTION, "q": {"kind": "low_rank", "rank": 6}, "out": {"kind": "low_rank", "rank": 5}},
        "mlp": {"kind": "relu2", "mlp_dim": 40, "down": {"kind": "low_rank", "rank": 7}},
    },
    "kronecker": {
        "attention": {**ATTENTION, **{name: {"kind": "kronecker"} for name in ("q", "k", "v", "out")}},
        "mlp": {"kind": "relu2", "mlp_dim": 40, "up": {"kind": "kronecker"}, "down": {"kind": "kronecker"}},
    },
    "swiglu": {"mlp": {"kind": "swiglu", "mlp_dim": 32, "gate": {"kind": "low_rank", "rank": 9}}},
    "leaky_relu2": {"mlp": {"kind": "leaky_relu2", "mlp_dim": 40, "slope": 0.5}},
}
ALL_TOGETHER = {
    "inputs": [{"kind": "bigram_hash", "buckets": 37, "dim": 6}, {"kind": "embed_norm"}, {"kind": "smear_gate"}],
    "modulate": [
        {"kind": "layer_scale"},
        {"kind": "norm_gain"},
        {"kind": "branch_scale", "mlp": "visit"},
        {"kind": "film", "shift": True, "cap": 4.0},
    ],
    "values": [{"kind": "value_embedding", "dim": 6}, {"kind": "value_residual"}],
    "heads": [{"kind": "xsa"}, {"kind": "attention_gate", "inputs": 5}],
    "logits": [{"kind": "softcap", "cap": 3.0}],
    "residual": {
        "kind": "sequential",
        "entry": [
            {"kind": "depth_embedding"},
            {"kind": "x0_mix"},
            {"kind": "birkhoff", "init_logit": 2.0},
            {"kind": "depth_sinusoid"},
        ],
    },
    "mlp": {"kind": "leaky_relu2", "mlp_dim": 40},
}
CASES = {**TECHNIQUES, "all together": ALL_TOGETHER, **small_recipes()}


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


def within_documents(case: str) -> ModelConfig:
    """Decode a case's config with attention kept inside documents."""
    attention = {**ATTENTION, **CASES[case].get("attention", {}), "within_documents": True}
    return model_config(**{**CASES[case], "attention": attention})


def tokens(batch: int, length: int, *, seed: int = 0) -> torch.Tensor:
    """Draw tokens, int64 [B T]."""
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def document(length: int, *, seed: int = 0) -> torch.Tensor:
    """Draw one document's tokens, a BOS and others, int64 [T]."""
    drawn = torch.randint(BOS + 1, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))
    drawn[0] = BOS
    return drawn
