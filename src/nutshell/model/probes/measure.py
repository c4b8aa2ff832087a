"""What a probe measures: formulae and units, in the order of `docs/probes.md`.

A probe is one batch, forward and backward, in fp32 whatever the precision of the training. Reductions are in float64.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.model.block import Block
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.probes.jacobian import jacobian_norm
from nutshell.model.probes.readings import (
    BranchReading,
    PartReading,
    Reading,
    RepeatReading,
    RetentionReading,
    Summary,
    VisitReading,
    rms,
)
from nutshell.model.probes.trace import Lane, Probed, VisitRun, lanes, mean_cosine, watched
from nutshell.model.seams import BranchName

BRANCHES: tuple[BranchName, ...] = ("attention", "mlp")


def probe(
    model: LM,
    schedule: DepthSchedule,
    inputs: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    *,
    jacobian_steps: int = 0,
) -> Reading:
    """Run one batch forward and backward, and read what happened.

    Args:
        model: an eager twin (`trace.eager_twin`); its gradients are not touched.
        schedule: what to run.
        inputs: tokens.
        targets: the token after each.
        jacobian_steps: of the power iteration for `jacobian_norm`; each costs some three forwards. 0: not measured.
    """
    parameters = dict(model.named_parameters())
    with torch.enable_grad():
        with watched(model) as runs:
            logits = model(inputs, schedule)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        by_run, by_name = _gradients(loss, runs, parameters)
    with torch.no_grad():
        kept = [_kept(model, schedule, run) for run in runs]
        return Reading(
            schedule=schedule.text,
            tokens=inputs.numel(),
            loss=loss.item(),
            visits=[
                _visit(model, run, _last_of_block(runs, run), factor, gradient, jacobian_steps)
                for run, factor, gradient in zip(runs, kept, by_run, strict=True)
            ],
            repeats=[
                RepeatReading(
                    block=block,
                    spread=_spread([run.said for run in runs if run.visit.block == block]),
                    spectral_norms=_spectral_norms(model, block),
                )
                for block in _repeated(schedule)
            ],
            retention=_retention(runs, kept, _repeated(schedule)),
            skips=_skips(model, schedule),
            parts=_parts(parameters, by_name),
        )


def norm(tensors: Iterable[Tensor]) -> float:
    """Give the Euclidean norm of all elements of several tensors."""
    return sum(x.detach().double().square().sum().item() for x in tensors) ** 0.5


def _gradients(
    loss: Tensor, runs: Sequence[VisitRun], parameters: Mapping[str, Tensor]
) -> tuple[list[list[Tensor]], dict[str, Tensor]]:
    """Differentiate by the stream after every visit, and by every parameter; what the loss does not reach is zero."""
    streams = [lanes(run.left) for run in runs]
    flat = [lane for lanes_left in streams for lane in lanes_left]
    found = torch.autograd.grad(loss, [*flat, *parameters.values()], allow_unused=True, materialize_grads=True)
    by_stream = iter(found[: len(flat)])
    by_run = [[next(by_stream) for _ in lanes_left] for lanes_left in streams]
    return by_run, dict(zip(parameters, found[len(flat) :], strict=True))


def _visit(
    model: LM,
    run: VisitRun,
    last: VisitRun | None,
    kept: list[Lane],
    gradients: list[Lane],
    jacobian_steps: int,
) -> VisitReading:
    after = torch.stack(lanes(run.left))
    return VisitReading(
        index=run.visit.index,
        block=run.visit.block,
        iteration=run.visit.iteration,
        stream_rms=rms(after),
        update_rms=rms(_update(run)),
        kept=Summary.of(torch.stack(kept)),
        attention=_branch(model, run, "attention"),
        mlp=_branch(model, run, "mlp"),
        cosine=None if last is None else mean_cosine(after, torch.stack(lanes(last.left))),
        update_cosine=None if last is None else mean_cosine(_update(run), _update(last)),
        gradient_norm=norm(gradients),
        jacobian_norm=jacobian_norm(model, run, steps=jacobian_steps) if jacobian_steps else None,
        values={name: Summary.of(value) for name, value in run.said.items()},
    )


def _update(run: VisitRun) -> Float[Tensor, "N B T D"]:
    """Say what a visit added; where it split the stream, each lane began as the one there was."""
    return torch.stack(lanes(run.left)) - torch.stack(lanes(run.entered))


def _last_of_block(runs: list[VisitRun], run: VisitRun) -> VisitRun | None:
    earlier = [other for other in runs[: run.visit.index] if other.visit.block == run.visit.block]
    return earlier[-1] if earlier else None


def _branch(model: LM, run: VisitRun, name: BranchName) -> BranchReading:
    scale, shift = _output_factor(model, run, name)
    output_rms, read_rms = rms(run.gave[name]), rms(run.read[name])
    return BranchReading(
        output_rms=output_rms,
        gain=output_rms / read_rms if read_rms else float("nan"),
        scale_rms=rms(scale),
        shift_rms=rms(shift),
    )


def _output_factor(model: LM, run: VisitRun, name: BranchName) -> tuple[Lane, Lane]:
    """Find what the output techniques multiply by and what they add, from what they make of ones and of zeros.

    So the product of all of them is measured as it acts, after caps and in the recipe's order.
    """
    block = model.blocks[run.visit.block]
    assert isinstance(block, Block)

    def through(z: Lane) -> Lane:
        for technique in block.modulate_output:
            z = technique(z, name, run.visit, run.stream)
        return z

    like = run.gave[name].double()
    shift = through(torch.zeros_like(like))
    return through(torch.ones_like(like)) - shift, shift


def _kept(model: LM, schedule: DepthSchedule, run: VisitRun) -> list[Lane]:
    """Find the factor on each lane while the branches are silent, from what the visit makes of ones and of zeros.

    So entries, residual rule and the joins of skips are measured together, whatever they are.
    """
    block = model.blocks[run.visit.block]
    assert isinstance(block, Block)
    stream = run.stream._replace(x0=run.stream.x0.double())

    def silent(x: Lane) -> Lane:
        return torch.zeros_like(x)

    def through(value: float) -> tuple[Lane, ...]:
        filled = tuple(torch.full_like(lane, value, dtype=torch.float64) for lane in lanes(run.entered))
        state = filled if isinstance(run.entered, tuple) else filled[0]
        for skip in schedule.skips_into(run.visit):
            x = model.carry.read(state)
            state = model.carry.write(state, model.skips[skip.key](x, torch.zeros_like(x)))
        return lanes(block.residual(state, run.visit, silent, silent, stream))

    return [one - zero for one, zero in zip(through(1.0), through(0.0), strict=True)]


def _retention(runs: list[VisitRun], kept: list[list[Lane]], repeated: list[int]) -> RetentionReading:
    core = [
        (run.visit.iteration, factor) for run, factor in zip(runs, kept, strict=True) if run.visit.block in repeated
    ]
    passes = sorted({iteration for iteration, _ in core})
    return RetentionReading(
        passes=[_product([factor for iteration, factor in core if iteration == number]) for number in passes],
        whole=_product(kept),
    )


def _product(factors: list[list[Lane]]) -> float:
    """Multiply by channel and average; a lane that splits hands its product on to both."""
    total = torch.ones(1, dtype=torch.float64)
    for factor in factors:
        total = total * torch.stack(factor)
    return total.mean().item()


def _repeated(schedule: DepthSchedule) -> list[int]:
    return [block for block in range(schedule.num_blocks) if schedule.num_visits(block) > 1]


def _spread(said: list[dict[str, Tensor]]) -> dict[str, float]:
    """Say how far a block's visits differ in each value that all of them name."""
    names = [name for name in said[0] if all(name in values for values in said)]
    return {
        name: rms(torch.stack([values[name].double() for values in said]).std(dim=0, correction=0)) for name in names
    }


def _spectral_norms(model: LM, block: int) -> dict[str, float]:
    """Write the shared matrices of a block out, whatever their kind, and take their largest singular values."""
    config, built = model.config, model.blocks[block]
    assert isinstance(built, Block)
    shapes = {"attention": config.attention.shapes(config.model_dim), "mlp": config.mlp.shapes(config.model_dim)}
    copies = {"attention": built.attentions, "mlp": built.mlps}
    found = {}
    for branch in BRANCHES:
        if config.depth.untied == branch:
            continue
        for name, (in_dim, _) in shapes[branch].items():
            matrix = getattr(copies[branch][0], name)(torch.eye(in_dim, device=model.embedding.device))
            found[f"{branch}.{name}"] = torch.linalg.matrix_norm(matrix, ord=2).item()
    return found


def _skips(model: LM, schedule: DepthSchedule) -> dict[str, dict[str, Summary]]:
    found = {}
    for skip in schedule.skips:
        join = model.skips[skip.key]
        if isinstance(join, Probed):
            found[skip.key] = {name: Summary.of(value) for name, value in join.probe(skip.target).items()}
    return found


def _parts(parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, PartReading]:
    """Group parameters by block, and those outside blocks by the name that the model has for them."""
    names: dict[str, list[str]] = {}
    for name in parameters:
        first, *rest = name.split(".")
        names.setdefault(f"{first}.{rest[0]}" if first == "blocks" else first, []).append(name)
    return {
        part: PartReading(
            weight_norm=norm([parameters[name] for name in members]),
            gradient_norm=norm([gradients[name] for name in members]),
        )
        for part, members in names.items()
    }
