"""What each order of reading leaves out of an epoch, and what a batch costs to cut.

    python benchmarks/loading.py --data DATA_SET [--rounds 20] [--out results/loading.json]

Two texts: the training text of a data set, and 20 million drawn tokens in 20 shards, whose documents are 900 tokens
long on average, spread by a log-normal law of deviation 0.9. Cutting is timed by the thread's own clock, so that what
else the machine does counts little; median over rounds, 64 windows of 2,048.
"""

import itertools
import math
import statistics
import time
from pathlib import Path

import numpy as np
from cyclopts import App

from nutshell.data.dataset import Dataset
from nutshell.data.loading import (
    CoprimeConfig,
    LoaderConfig,
    RingConfig,
    SequentialConfig,
    ShuffledConfig,
    build_loader,
)
from nutshell.data.shards import TokenStream
from nutshell.files import write_json
from nutshell.machine import processor, versions

app = App(help=__doc__)
CONFIGS: tuple[LoaderConfig, ...] = tuple(
    kind(align=align)
    for align in ("stream", "documents")
    for kind in (RingConfig, SequentialConfig, ShuffledConfig, CoprimeConfig)
)
CONTEXTS = (128, 256, 1024, 2048)
BATCH_SIZE, SEQ_LEN, BOS = 64, 2048, 1
MEAN, DEVIATION, TOKENS, SHARDS = 900, 0.9, 20_000_000, 20


@app.default
def main(*, data: Path, rounds: int = 20, out: Path | None = None) -> None:
    """Measure every kind, on both texts."""
    dataset = Dataset.open(data)
    texts = {"data": (dataset.train, dataset.tokenizer.bos_id), "drawn": (_drawn(), BOS)}
    rows = [_measure(name, config, *texts[name], rounds) for name, config in itertools.product(texts, CONFIGS)]
    for row in rows:
        skipped = " ".join(f"{100 * share:.2f} %" for share in row["skipped"].values())
        print(f"{row['text']:<5} {row['kind']:<16} {row['align']:<9} skipped {skipped}, {1e3 * row['seconds']:.2f} ms")
    if out:
        write_json(out, {"processor": processor(), "versions": versions(), "source": dataset.digest, "rows": rows})


def _drawn() -> TokenStream:
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 8192, TOKENS).astype(np.uint16)
    lengths = rng.lognormal(math.log(MEAN) - DEVIATION**2 / 2, DEVIATION, 2 * TOKENS // MEAN).astype(int) + 1
    starts = np.cumsum(lengths)
    tokens[0] = tokens[starts[starts < TOKENS]] = BOS
    return TokenStream(np.array_split(tokens, SHARDS))


def _measure(text: str, config: LoaderConfig, tokens: TokenStream, bos_id: int, rounds: int) -> dict:
    loader = build_loader(config, tokens, bos_id=bos_id, seed=0)
    skipped = {str(seq_len): loader.skipped(seq_len) for seq_len in CONTEXTS}
    seconds = []
    for step in range(rounds):
        start = time.thread_time()
        loader.batch(step * BATCH_SIZE * SEQ_LEN, batch_size=BATCH_SIZE, seq_len=SEQ_LEN)
        seconds.append(time.thread_time() - start)
    return {
        "text": text,
        "kind": type(config).__name__.removesuffix("Config").lower(),
        "align": config.align,
        "skipped": skipped,
        "seconds": statistics.median(seconds),
    }


if __name__ == "__main__":
    app()
