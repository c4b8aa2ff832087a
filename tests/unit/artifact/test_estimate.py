"""The size predicted from a configuration, against the real bytes of normal weights."""

import importlib.util
from pathlib import Path

import msgspec
import pytest
import torch

from models import model_config
from nutshell.artifact import estimate
from nutshell.artifact.config import PackConfig
from nutshell.artifact.estimate import predict_bytes
from nutshell.artifact.pack import Contents, Packer
from nutshell.config.catalog import installed_recipes
from nutshell.config.loader import decode
from nutshell.data.bundled import BundledCorpus
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.recipe import resolve

# What benchmarks/size_model.py packs in seconds; the others are in results/size_model.json.
SMALL_RECIPES = [name for name, _ in installed_recipes() if name.endswith("-cpu")] + ["demo", "share2x6-256"]
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


@pytest.mark.parametrize(
    "rule",
    [{"kind": "rtn"}, {"kind": "rtn", "grid": {"kind": "slope"}}, {"kind": "trellis", "grid": {"kind": "slope"}}],
)
def test_a_fitted_precision_ends_at_the_budget_or_at_its_finest(rule):
    table = {"budget_bytes": 150_000, "rules": [rule | {"roles": ["matrix", "embedding"]}]}
    config = decode(table, PackConfig, where="test")
    assert predict_bytes(CONFIG, config) == 150_000
    roomy = msgspec.structs.replace(config, budget_bytes=10**9)
    finest = len(Packer(normal_contents(), roomy).pack(8.0).content)
    assert predict_bytes(CONFIG, roomy) == pytest.approx(finest, rel=0.04)


def test_where_the_finest_is_sure_to_be_larger_nothing_is_quantized(monkeypatch):
    def refuse(*_, **__):
        pytest.fail("it quantizes")

    monkeypatch.setattr(estimate, "quantize", refuse)
    rule = {"kind": "trellis", "roles": ["matrix", "embedding"], "grid": {"kind": "rate"}, "states": 256}
    assert (
        predict_bytes(CONFIG, decode({"budget_bytes": 149_000, "rules": [rule]}, PackConfig, where="test")) == 149_000
    )


@pytest.fixture(scope="module")
def size_model():
    path = Path(__file__).parents[3] / "benchmarks/size_model.py"
    spec = importlib.util.spec_from_file_location("size_model_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, train_tokenizer(BundledCorpus(), vocab_size=module.REAL_VOCAB, sample_every=16).model_bytes


@pytest.mark.parametrize("name", SMALL_RECIPES)
def test_a_recipe_with_normal_weights_is_within_2_percent(name, size_model):
    module, tokenizer = size_model
    assert abs(module.measure(resolve(name), tokenizer, most=2_500_000)["error"]) < 0.02
