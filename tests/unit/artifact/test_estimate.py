"""The size predicted from a configuration, against the real bytes of normal weights."""

import msgspec
import pytest
import torch

from models import model_config
from nutshell.artifact.config import PackConfig
from nutshell.artifact.estimate import predict_bytes
from nutshell.artifact.pack import Contents, Packer
from nutshell.config.loader import decode
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable

VOCAB = 512
CONFIG = model_config(
    vocab_size=VOCAB,
    model_dim=128,
    attention={"num_heads": 4, "num_kv_heads": 2, "head_dim": 32},
    mlp={"kind": "relu2", "mlp_dim": 384},
    modulate=[{"kind": "branch_scale"}],
    residual={"kind": "sequential", "entry": [{"kind": "x0_mix"}]},
)


def normal_contents() -> Contents:
    model = LM(CONFIG, [CONFIG.depth.parse()])
    generator = torch.Generator().manual_seed(0)
    weights = {row.name: torch.randn(row.shape, generator=generator) for row in ParamTable.of(model)}
    text = " ".join(f"{first}{second}" for first in "abcdefghijklmnopqrst" for second in "aeiou" for _ in range(3))
    words = " ".join(f"{text[i : i + 7]} {i}" for i in range(3000))
    tokenizer = train_tokenizer([words.encode()], vocab_size=VOCAB)
    return Contents.of(weights, ParamTable.of(model), recipe='about = "x"\n' * 20, tokenizer=tokenizer.model_bytes)


@pytest.mark.parametrize(
    "grid",
    [
        {"kind": "absmax", "bits": 4},
        {"kind": "absmax", "bits": 6},
        {"kind": "sd_clip", "bits": 6, "sigmas": 12.85},
        {"kind": "absmax", "bits": 8},
        {"kind": "sd_clip", "bits": 3, "sigmas": 2.5},
    ],
)
def test_fixed_precision(grid):
    table = {"budget_bytes": 10**9, "rules": [{"kind": "rtn", "roles": ["matrix", "embedding"], "grid": grid}]}
    config = decode(table, PackConfig, where="test")
    real = len(Packer(normal_contents(), config).pack(None).content)
    assert predict_bytes(CONFIG, config) == pytest.approx(real, rel=0.04)


def test_a_fitted_precision_ends_at_the_budget_or_at_its_finest():
    table = {"budget_bytes": 150_000, "rules": [{"kind": "rtn", "roles": ["matrix", "embedding"]}]}
    config = decode(table, PackConfig, where="test")
    assert predict_bytes(CONFIG, config) == 150_000
    roomy = msgspec.structs.replace(config, budget_bytes=10**9)
    finest = len(Packer(normal_contents(), roomy).pack(8.0).content)
    assert predict_bytes(CONFIG, roomy) == pytest.approx(finest, rel=0.04)
