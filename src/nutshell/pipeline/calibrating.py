"""The text of a calibration, from the training data or from the model itself, and the statistics that it gives."""

from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from nutshell.data.dataset import Dataset
from nutshell.data.loading import build_loader
from nutshell.errors import UsageError
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.nn.cache import KVCache
from nutshell.quant.calibrate import Metric, calibrate
from nutshell.quant.statistics import Statistics
from nutshell.ranks import ALONE, Ranks
from nutshell.recipe import Recipe

TextSource = Literal["training", "generated"]

# Of the order of the training text; no training is likely to have the same, and all packings have this one.
SEED = 10_007
# Tokens in one batch, as far as whole windows go: each batch is one sample of the gradients' covariance.
BATCH_TOKENS = 512
# Windows that a model writes side by side; what bounds the memory of their cache.
WRITTEN_AT_ONCE = 64
# Keeps the drawn tokens apart from other draws of the same seed.
_WRITING_STREAM = 7


def calibrate_model(
    model: LM,
    recipe: Recipe,
    *,
    source: TextSource,
    tokens: int,
    names: Collection[str],
    dataset: Dataset | None = None,
    metric: Metric = "gradients",
    seed: int = SEED,
    ranks: Ranks = ALONE,
) -> dict[str, Statistics]:
    """Measure the statistics of a trained model's matrices under its final schedule.

    Args:
        model: the weights that will be packed, frozen.
        recipe: of the run.
        source: "training" reads the training text in the order of the recipe's loader under a seed of its own;
            "generated" reads what the model writes itself.
        tokens: how many to read, rounded up to whole windows of the training.
        names: the matrices.
        dataset: the data of the run, where the source is its training text.
        metric: what a Hessian is (`quant/calibrate.py`).
        seed: of the text and of the labels.
        ranks: the processes that share the work.

    Raises:
        UsageError: the training text is wanted and there is no data set, or one of another tokenizer.
        DataError: the training text has no window.
    """
    length = recipe.train.seq_len
    windows = -(-tokens // length)
    if source == "training":
        batches = training_text(_checked(dataset, recipe), recipe, windows, seed=seed)
    else:
        batches = written_text(model, recipe.final_schedule, windows, length, seed=seed)
    return calibrate(model, recipe.final_schedule, batches, names=names, metric=metric, seed=seed, ranks=ranks)


def training_text(
    dataset: Dataset, recipe: Recipe, windows: int, *, seed: int = SEED
) -> Iterator[Int64[np.ndarray, "B T"]]:
    """Cut the first windows of the training text, in an order of the recipe's loader, into batches."""
    length = recipe.train.seq_len
    loader = build_loader(recipe.train.loader, dataset.train, bos_id=dataset.tokenizer.bos_id, seed=seed)
    size = max(1, BATCH_TOKENS // length)
    for start in range(0, windows, size):
        count = min(size, windows - start)
        inputs, _ = loader.batch(start * length, batch_size=count, seq_len=length)
        yield inputs


def written_text(
    model: LM, schedule: DepthSchedule, windows: int, length: int, *, seed: int = SEED
) -> Iterator[Int64[np.ndarray, "B T"]]:
    """Let a model write windows of text, each from a document's beginning on; a document that ends is followed by one.

    Tokens are drawn at temperature 1: the text is a sample of what the model believes in.
    """
    size = max(1, BATCH_TOKENS // length)
    for start in range(0, windows, WRITTEN_AT_ONCE):
        rows = min(WRITTEN_AT_ONCE, windows - start)
        drawn = np.random.default_rng([seed, start, _WRITING_STREAM]).integers(2**63)
        written = _write(model, schedule, rows, length, torch.Generator().manual_seed(int(drawn)))
        yield from (written[row : row + size] for row in range(0, rows, size))


@torch.no_grad()
def _write(
    model: LM, schedule: DepthSchedule, rows: int, length: int, generator: torch.Generator
) -> Int64[np.ndarray, "B T"]:
    """Write windows side by side, one token of each at a time."""
    device = model.embedding.device
    cache = KVCache(length)
    tokens = [torch.full((rows, 1), model.config.bos_id)]
    while len(tokens) < length:
        logits = model(tokens[-1].to(device), schedule, cache=cache)
        tokens.append(_draw(logits[:, -1].cpu(), generator))
    return torch.cat(tokens, dim=1).numpy()


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each row's next token, [B 1]."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniform).clamp_max(logits.shape[-1] - 1)


def _checked(dataset: Dataset | None, recipe: Recipe) -> Dataset:
    if dataset is None:
        raise UsageError("pack: pack.calibration reads the training text; give the data set with --data DIR")
    if dataset.tokenizer.vocab_size != recipe.model.vocab_size:
        raise UsageError(
            f"pack: {dataset.folder}: its tokenizer has {dataset.tokenizer.vocab_size} tokens, the model "
            f"{recipe.model.vocab_size}; give the data that the run was trained on"
        )
    return dataset
