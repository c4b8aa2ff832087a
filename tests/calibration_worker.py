"""What each process of a test of calibration on several ranks does: its share of the batches."""

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from models import build_model, model_config
from nutshell.quant.calibrate import calibrate
from nutshell.ranks import ALONE, Ranks

# More chunks than ranks, and a last one that is not full.
BATCHES = 37


def measured(ranks=ALONE):
    """Calibrate a small model; give the factors of its matrices by name."""
    model, schedule = build_model(model_config())
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, model.config.vocab_size, (2, 10)) for _ in range(BATCHES)]
    names = [name for name, value in model.named_parameters() if value.ndim == 2]
    found = calibrate(model.requires_grad_(requires_grad=False), schedule, batches, names=names, ranks=ranks)
    return {f"{name}.hessian": each.hessian for name, each in found.items()} | {
        f"{name}.rows": each.row_weights for name, each in found.items()
    }


def work(rank, folder):
    """Be one of two ranks; write what came of it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = measured(Ranks(rank, 2, torch.device("cpu")))
    save_file({name: value.contiguous() for name, value in found.items()}, Path(folder) / f"{rank}.safetensors")
    dist.destroy_process_group()
