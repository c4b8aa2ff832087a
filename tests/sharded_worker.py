"""What each process of a test on several ranks does: a few updates, with its share of the gradients."""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from nutshell.errors import RunError
from nutshell.nn.params import ParamRow, ParamTable, parameter
from nutshell.optim.config import MuonConfig, OptimConfig
from nutshell.optim.roles import Optimizers
from nutshell.ranks import Ranks

# Stacks that no number of ranks divides, one smaller than the ranks, and what AdamW has.
PARAMETERS = [("matrix", (6, 4))] * 11 + [("matrix", (4, 4))] * 3 + [("matrix", (4, 9))]
PARAMETERS += [("projection", (4, 6)), ("embedding", (5, 4)), ("gain", (7,)), ("scale", (2, 3)), ("gate", (1,))]
# (step, parameter) that no rank's schedule reaches: a matrix and a scale never, a matrix for a while.
UNREACHED = {(step, number) for step in range(4) for number in (2, 18)} | {(1, 5), (2, 5), (1, 14)}
SHARES, STEPS, SAVED_AFTER = 4, 4, 2
CONFIG = OptimConfig(
    grad_clip=2.0,
    lr_curve=((0.0, 1.0), (1.0, 0.5)),
    momentum=((0.0, 0.8), (0.5, 0.95)),
    matrix_weight_decay=0.1,
    embed_weight_decay=0.2,
    scalar_weight_decay=0.05,
    muon=MuonConfig(row_norm=True),
    projections="adamw",
)


def table():
    generator = torch.Generator().manual_seed(0)
    rows = [
        ParamRow(f"p{number}", role, parameter(torch.randn(shape, generator=generator), role))
        for number, (role, shape) in enumerate(PARAMETERS)
    ]
    return ParamTable(tuple(rows))


def give_shares(params, step, ranks):
    """Set this rank's gradients: of the four shares of a step, those that fall to it."""
    mine = range(ranks.rank * SHARES // ranks.size, (ranks.rank + 1) * SHARES // ranks.size)
    for number, row in enumerate(params):
        generators = [torch.Generator().manual_seed(1 + 1000 * step + 10 * number + share) for share in mine]
        drawn = [torch.randn(row.shape, generator=generator) for generator in generators]
        row.value.grad = None if (step, number) in UNREACHED else torch.stack(drawn).sum(0)


def updated(ranks, *, start=0, stop=STEPS, weights=None, state=None):
    """Train from `start` to `stop`; give weights, optimizer state and gradient norms, by name."""
    params = table()
    optimizers = Optimizers(params, CONFIG, dtype=torch.float32, ranks=ranks)
    if weights is not None and state is not None:
        with torch.no_grad():
            for row in params:
                row.value.copy_(weights[row.name])
        optimizers.load_state(state)
    norms = []
    for step in range(start, stop):
        give_shares(params, step, ranks)
        norms.append(optimizers.step(step / STEPS)["grad_norm"])
    held = {f"weight.{row.name}": row.value.detach().clone() for row in params}
    held |= {f"state.{name}": value.clone() for name, value in optimizers.state().items()}
    return held | {"norms": torch.tensor(norms, dtype=torch.float64)}


def part(held, prefix):
    return {name.removeprefix(prefix): value for name, value in held.items() if name.startswith(prefix)}


def message_of_a_broken_share(ranks):
    """Spoil one share of one gradient, on the last rank alone; give what this rank says of it."""
    params = table()
    optimizers = Optimizers(params, CONFIG, dtype=torch.float32, ranks=ranks)
    give_shares(params, 0, ranks)
    if ranks.rank == ranks.size - 1:
        params.rows[7].value.grad[0, 0] = float("nan")
    try:
        optimizers.step(0.0)
    except RunError as error:
        return str(error)
    return "nothing"


def work(rank, folder):
    """Be one of four ranks, then, if among the first, one of two; write what came of it."""
    torch.set_num_threads(1)
    folder, kept = Path(folder), {}
    for size in (4, 2):
        if rank >= size:
            break
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet{size}", rank=rank, world_size=size)
        ranks = Ranks(rank, size, torch.device("cpu"))
        save_file(updated(ranks), folder / f"whole{size}-{rank}.safetensors")
        if size == 2:  # go on from what four ranks had
            resumed = updated(ranks, start=SAVED_AFTER, weights=part(kept, "weight."), state=part(kept, "state."))
            save_file(resumed, folder / f"resumed-{rank}.safetensors")
        kept = updated(ranks, stop=SAVED_AFTER)
        (folder / f"said{size}-{rank}").write_text(message_of_a_broken_share(ranks))
        dist.destroy_process_group()
