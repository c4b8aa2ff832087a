"""A small text and data set for tests of whole trainings, and the model that they train."""

import json

from nutshell.data.corpus import BuildConfig, build
from nutshell.data.documents import TextFiles

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
