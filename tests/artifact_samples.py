"""Artifacts to be damaged: one with every coder, and a whole small model with every kind of section."""

import msgspec
import numpy as np
import torch

import codec_arrays
from models import SMALL
from nutshell.artifact.config import PackConfig
from nutshell.artifact.container import Section, pack_container
from nutshell.artifact.pack import Contents, Packer
from nutshell.config.loader import decode, to_toml
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.quant.statistics import Statistics
from nutshell.recipe import Recipe

VOCAB = 300
RULES = [
    {
        "kind": "trellis",
        "roles": ["matrix"],
        "grid": {"kind": "slope"},
        "lqer": {"kind": "asymmetric", "rank": 2, "group": 8},
    },
    {"kind": "rtn", "roles": ["embedding"], "grid": {"kind": "absmax", "bits": 6, "per": 8}},
]


def all_coders():
    text = np.frombuffer(b"all work and no play makes jack a dull boy. " * 9, np.uint8)
    return pack_container(
        [
            Section.encode("a", "codes", array=codec_arrays.rows_of_many_widths()[:24], chain=("ans",)),
            Section.encode("b", "codes", array=codec_arrays.one_bell()[:8], chain=("ans",)),
            Section.encode("b", "scale", array=codec_arrays.scales(), chain=("shuffle", "brotli")),
            Section.encode("c", "constant", array=np.full((30, 30), 2, np.int8), chain=("ans",)),
            Section.encode("d", "float", array=codec_arrays.scales(), chain=("shuffle", "lzma")),
            Section.encode("e", "text", array=text, chain=("brotli",)),
            Section.encode("f", "raw", array=codec_arrays.scales(), chain=("raw",)),
            Section.encode("g", "levels", array=codec_arrays.levels(8)[:, :16], chain=("trellis8",)),
            Section.encode("h", "rows", array=codec_arrays.one_bell()[:8], chain=("sort_rows", "zstd")),
            Section.encode(
                "i", "planes", array=codec_arrays.one_bell()[:8], chain=("transpose", "bitplanes", "brotli")
            ),
            Section.encode("j", "scale", array=codec_arrays.scales(), chain=("bits", "ans")),
        ],
        {"producer": "test"},
    )


def whole_model():
    """A model of two blocks that visits them in three layers, its weights normal."""
    table = {
        "about": "test",
        "model": SMALL | {"vocab_size": VOCAB, "depth": {"schedule": "0 (1)x2"}},
        "train": {"budget": {"steps": 1}, "batch_size": 1, "seq_len": 16},
        "pack": {"budget_bytes": 40_000, "rules": RULES, "calibration": {"kind": "generated"}},
        "score": {"stride": 8},
    }
    recipe = decode(table, Recipe, where="test")
    model = LM(recipe.model, [recipe.final_schedule])
    generator = torch.Generator().manual_seed(0)
    weights = {row.name: torch.randn(row.shape, generator=generator) for row in ParamTable.of(model)}
    statistics = {
        name: Statistics(
            torch.diag(torch.linspace(0.2, 3.0, value.shape[1], dtype=torch.float64)),
            torch.linspace(0.01, 0.05, value.shape[0], dtype=torch.float64),
        )
        for name, value in weights.items()
        if value.ndim == 2
    }
    text = " ".join(f"{word} {number}" for number in range(400) for word in ("alpha", "beta", "gamma", "delta"))
    tokenizer = train_tokenizer([text.encode()], vocab_size=VOCAB).model_bytes
    contents = Contents.of(weights, ParamTable.of(model), recipe=to_toml(recipe), tokenizer=tokenizer)
    config = msgspec.convert(msgspec.to_builtins(recipe.pack), PackConfig)
    return Packer(contents, config, statistics).pack(3.0).content
