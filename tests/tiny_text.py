"""A small text and data set for tests of whole trainings, and the model that they train."""

import json

import torch
from safetensors.torch import save_file

from nutshell.data.corpus import BuildConfig, build
from nutshell.data.documents import TextFiles
from nutshell.model.lm import LM
from nutshell.recipe import resolve

MODEL = """
about = "a test"
[model]
vocab_size = 300
model_dim = 32
attention = { num_heads = 2, num_kv_heads = 1 }
inputs = [{ kind = "embed_norm" }]
mlp = { kind = "relu2", mlp_dim = 64 }
residual = { kind = "sequential", entry = [{ kind = "x0_mix" }] }
depth = { schedule = "0 (1)x2 2" }
"""


def write_tiny(folder, train):
    """Write `small.toml`, the model with the rest of a recipe, and its data set `data`."""
    (folder / "small.toml").write_text(MODEL + train)
    lines = [json.dumps({"text": f"number {n} and then {n * n} with {n % 7} more words to count"}) for n in range(400)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    build(TextFiles((folder / "text.jsonl",)), folder / "data", BuildConfig(vocab_size=300))
    return folder


def write_moved_run(folder):
    """Write what packing reads of a run: the model of `small.toml`, not trained, but moved off its first values."""
    resolved = resolve(str(folder / "small.toml"))
    model = LM(resolved.recipe.model, [resolved.recipe.final_schedule])
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    weights = {name: v + 0.1 * torch.randn(v.shape, generator=generator) for name, v in model.state_dict().items()}
    made = folder / "run"
    made.mkdir()
    (made / "recipe.toml").write_text(resolved.toml())
    (made / "tokenizer.model").write_bytes((folder / "data" / "tokenizer.model").read_bytes())
    save_file(weights, made / "weights.safetensors")
    return made
