"""A run directory with the files and the sizes of numbers that a real demo run leaves."""

import json
import math
import random

import pytest

SUMMARY = {
    "name": "demo",
    "bpb": 1.7421385,
    "nats_per_token": 1.7421385 * 1_126_482 * math.log(2) / 407_000,  # so that the totals agree
    "tokens": 407_000,
    "bytes": 1_126_482,
    "documents": 214,
    "coverage": 1.0,
    "strategy": {"kind": "sliding", "context": 256, "stride": 64},
    "disjoint_bpb": 1.7711,
    "stream_bpb": 1.7598,
    "artifact": "model.nut",
    "artifact_bytes": 987_654,
    "budget_bytes": 1_000_000,
    "compressors": {"xz": 2.7713, "brotli": 2.6482, "zstd": 2.7094},
    "proof": {"ok": True, "tokens": 12_345, "documents": 8, "claimed_bits": 59_507.31, "coded_bits": 59_536},
    "seconds": {"data": 11.2, "compile": 24.8, "train": 300.1, "pack": 9.7, "score": 38.4, "prove": 61.3},
    "command": "nutshell demo --seed 42",
    "overrides": {},
}

RECEIPT = {
    "recipe_digest": "3f" * 32,
    "data_digest": "a7" * 32,
    "tokenizer_sha256": "0c" * 32,
    "versions": {"nutshell": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6"},
    "processor": "Intel(R) Xeon(R) Processor @ 2.10GHz (AMX)",
    "threads": 2,
    "compute_dtype": "bfloat16",
    "device": "cpu",
    "steps": 1480,
    "tokens": 12_124_160,
    "seconds": {"train": 300.1},
    "seed": 42,
    "num_params": 2_170_896,
}

BLOCKS = [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
SKIPS = [[0, 9], [1, 8], [2, 7]]


def virtual_layer(index, block):
    """Two seams in use, as `nutshell describe` has them; the last blocks are parallel."""
    return {
        "index": index,
        "block": block,
        "iteration": BLOCKS[:index].count(block),
        "skips_in": [{"source": source, "key": f"pop_{target - 7}"} for source, target in SKIPS if target == index],
        "weights": {"attention": "shared" if block in (2, 3, 4) else "own", "mlp": "own"},
        "residual": "parallel" if block >= 5 else "sequential",
        "techniques": [
            {"seam": "entry", "kind": "x0_mix", "value": None, "per_visit": block in (2, 3, 4)},
            {"seam": "modulate", "kind": "layer_scale", "value": (block + 1) ** -0.5, "per_visit": False},
            {"seam": "modulate", "kind": "branch_scale", "value": None, "per_visit": False},
        ],
    }


DESCRIPTION = {
    "name": "demo",
    "num_params": 2_170_896,
    "params_by_role": {"matrix": 1_769_472, "embedding": 393_216, "gain": 7_168, "scale": 1_040},
    "parts": [
        {"seam": "embedding", "kind": "table", "params": 393_216, "flops_per_token": 0.0},
        {"seam": "inputs", "kind": "embed_norm", "params": 0, "flops_per_token": 0.0},
        {"seam": "mlp", "kind": "relu2", "params": 1_777_680, "flops_per_token": 6_126_464.0},
        {"seam": "head", "kind": "tied", "params": 0, "flops_per_token": 2_000_000.0},
    ],
    "flops_per_token": 8_126_464,
    "predicted_artifact_bytes": 991_000,
    "virtual_layers": [virtual_layer(index, block) for index, block in enumerate(BLOCKS)],
    "skips": SKIPS,
    "join": "gated_skip",
    "inputs": ["embed_norm"],
    "norms": {"attention": "pre", "mlp": "peri"},
    "logits": ["softcap"],
    "schedule": "0-1 (2-4)x2 5-6",
    "phases": [
        {
            "begin": 0.0,
            "until": 0.35,
            "batch_size": 32,
            "seq_len": 1_024,
            "schedules": [
                {"schedule": "0-6", "blocks": [*range(7)], "skips": [[1, 5], [0, 6]], "flops_per_token": 6_000_000.0}
            ],
        },
        {
            "begin": 0.35,
            "until": 1.0,
            "batch_size": 64,
            "seq_len": 2_048,
            "quantized": True,
            "schedules": [
                {"schedule": "0-1 (2-4)x2 5-6", "blocks": BLOCKS, "skips": SKIPS, "flops_per_token": 8_126_464.0}
            ],
        },
    ],
}

LEDGER = {
    "artifact_bytes": 987_654,
    "budget_bytes": 1_000_000,
    "sections": [
        {"name": "header", "kind": "header", "bytes": 64},
        {"name": "manifest", "kind": "manifest", "bytes": 3_118},
        {"name": "recipe", "kind": "recipe", "bytes": 1_204},
        {"name": "tokenizer", "kind": "tokenizer", "bytes": 21_870},
        {"name": "matrix", "kind": "planes", "bytes": 781_302, "bits_per_value": 3.5324},
        {"name": "embedding", "kind": "planes", "bytes": 172_300, "bits_per_value": 3.5054},
        {"name": "gain", "kind": "raw", "bytes": 7_796, "bits_per_value": None},
    ],
    "bytes_by_kind": {
        "planes": 953_602,
        "tokenizer": 21_870,
        "raw": 7_796,
        "manifest": 3_118,
        "recipe": 1_204,
        "header": 64,
    },
    "precision": {"matrix": 4, "embedding": 4, "gain": 16, "scale": 16},
}

RECIPE = """# The demo: five minutes on two processor cores.
name = "demo"

[model]
model_dim = 192
num_heads = 6

[model.depth]
schedule = "0-1 (2-4)x2 5-6"
skips = "mirror"

[[train.phases]]
until = 0.35
schedule = "0-6"
"""


def metrics_rows():
    """Rows every ten steps: a falling, noisy loss, slower steps once the recurrence is switched on."""
    noise, seconds, rows = random.Random(0), 0.0, []
    for step in range(0, 1481, 10):
        looped = seconds > 105
        loss = 3.25 + 3.7 * math.exp(-step / 90) + 0.9 * math.exp(-step / 500) + noise.gauss(0, 0.05)
        rows.append(
            {
                "step": step,
                "progress": min(1.0, seconds / 300),
                "seconds": seconds,
                "tokens": step * 8192,
                "loss": loss,
                "bpb": loss * 0.521,
                "lr": 0.02 * min(1, 2 - 2 * step / 1480),
                "ms_per_step": 231.4 if looped else 160.2,
                "tokens_per_second": 35_402.0 if looped else 51_136.0,
                "phase": int(looped),
                "schedule": "0-1 (2-4)x2 5-6" if looped else "0-6",
            }
        )
        seconds += 2.314 if looped else 1.602
    return rows


def write(run_dir, name, value):
    (run_dir / name).write_text(json.dumps(value, indent=2))


@pytest.fixture
def rows():
    return metrics_rows()


@pytest.fixture
def run_dir(tmp_path, rows):
    """A finished run, whose files a test may change."""
    write(tmp_path, "summary.json", SUMMARY)
    write(tmp_path, "run.json", RECEIPT)
    write(tmp_path, "describe.json", DESCRIPTION)
    write(tmp_path, "pack.json", LEDGER)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def load(run_dir):
    """Read one of the run's JSON files."""
    return lambda name: json.loads((run_dir / name).read_text())


@pytest.fixture
def edit(run_dir, load):
    """Change keys of one of the run's JSON files."""
    return lambda file, **changes: write(run_dir, file, {**load(file), **changes})
