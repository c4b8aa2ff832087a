"""What a step's tokens cost: from the model's last state to the objective, and to the nats that are reported.

Reading out and its gradient are one function, so that compiled code need not keep between forward and backward what an
autograd graph would: logits exist for a piece of the batch at a time. What leaves is the gradient of the last state, of
the head's matrix and of the techniques on logits; it waits for the backward, which only scales it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nutshell.model.depth import MAX_VIRTUAL_LAYERS, DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.seams import Stream
from nutshell.nn.kernels.cross_entropy import Loss, Smoothing, cross_entropy
from nutshell.train.compute import Compute
from nutshell.train.config import TrainConfig
from nutshell.train.stages import UNWATCHED, Stages

Params = Mapping[str, Tensor]

# Of the fp32 logits of a piece, by device. On a CPU two pieces of this size take the time of one and need half the
# memory, smaller ones take longer (results/loss_cpu.json). On a GPU, where each piece costs some launches, a guess.
MAX_LOGITS_BYTES = {"cpu": 2**26, "cuda": 2**28}


class Known(NamedTuple):
    """A loss together with its gradients: of the last state, of the head's matrix, and of the techniques on logits."""

    loss: Loss
    of_state: Float[Tensor, "B T M"]
    of_head: Float[Tensor, "V M"]
    of_params: Params


class TrainingLoss:
    """Mean next-token cross-entropy of a model under a schedule, and the objective made of it.

    Compiles the model's blocks in place where it compiles them one by one; such a model runs compiled afterwards.
    """

    def __init__(self, model: LM, compute: Compute, config: TrainConfig, stages: Stages = UNWATCHED) -> None:
        self._model, self._compute, self._stages = model, compute, stages
        self._read_out = ReadOutLoss(model, Smoothing(config.label_smoothing, config.z_loss))
        self._params = self._read_out.params()
        self._gradients, self._trunk = self._read_out.gradients, model.trunk
        if compute.compiled:
            # A technique may read the number of its block or visit; each is then a graph of its own, and a deep model
            # has more of them than dynamo allows by default.
            torch._dynamo.config.recompile_limit = 4 * MAX_VIRTUAL_LAYERS
            # Skips and repeats change the graph, not the shapes: without dynamic=False the block numbers in a visit
            # would become symbols at the second block.
            if compute.scope == "blocks":
                for block in model.blocks:
                    block.compile(fullgraph=True, dynamic=False)
            else:
                self._trunk = torch.compile(model.trunk, fullgraph=True, dynamic=False)
            self._gradients = torch.compile(self._read_out.gradients, fullgraph=True, dynamic=False)

    def __call__(self, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], schedule: DepthSchedule) -> Loss:
        stream = self._model.stream(inputs, dtype=self._compute.dtype, attend_kind=self._compute.attend_kind)
        x = self._trunk(stream, schedule)
        head = self._model.head_weight
        if not torch.is_grad_enabled():
            return self._read_out(x, head, stream, targets)
        self._stages.done("forward")
        known = self.with_gradients(x.detach(), head.detach(), stream, targets)
        leaves = (x, head, *self._params.values())
        gradients = (known.of_state, known.of_head, *known.of_params.values())
        return known.loss._replace(objective=_Linked.apply(known.loss.objective, *leaves, *gradients))

    def with_gradients(
        self, x: Float[Tensor, "B T M"], head: Float[Tensor, "V M"], stream: Stream, targets: Int[Tensor, "B T"]
    ) -> Known:
        """Compute from the last state the loss and its gradients, a piece of the rows at a time."""
        params = {name: value.detach() for name, value in self._params.items()}
        row_bytes = 4 * x.shape[1] * head.shape[0]
        num = num_pieces(len(x), row_bytes=row_bytes, most=MAX_LOGITS_BYTES[x.device.type])
        size = len(x) // num
        total = None
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            part = self._gradients(x[rows], head, params, _read_by_logits(stream, rows), targets[rows], num)
            total = part if total is None else _joined(total, part)
        assert total is not None
        return total


class ReadOutLoss(nn.Module):
    """From the last state to the loss, with the head's matrix as an argument."""

    def __init__(self, model: LM, smoothing: Smoothing) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(
        self, x: Float[Tensor, "B T M"], head: Float[Tensor, "V M"], stream: Stream, targets: Int[Tensor, "B T"]
    ) -> Loss:
        logits = self.model.read_out(x, stream, head)
        return cross_entropy(logits.flatten(0, 1), targets.flatten(), self.smoothing)

    def gradients(
        self, x: Tensor, head: Tensor, params: Params, stream: Stream, targets: Tensor, num_pieces: int
    ) -> Known:
        """Give the share of one of several pieces in the loss, and the gradients of that."""

        def share(x: Tensor, head: Tensor, params: Params) -> tuple[Tensor, Loss]:
            whole: Any = torch.func.functional_call(self, dict(params), (x, head, stream, targets))
            loss = Loss(*(part / num_pieces for part in whole))
            return loss.objective, Loss(*(part.detach() for part in loss))

        gradients, loss = torch.func.grad(share, argnums=(0, 1, 2), has_aux=True)(x, head, params)
        return Known(loss, *gradients)

    def params(self) -> dict[str, Tensor]:
        """Name the parameters of the techniques on logits."""
        return {name: value for name, value in self.named_parameters() if name.startswith("model.logits.")}


class _Linked(torch.autograd.Function):
    """Gives a value back, with gradients for its leaves that are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *leaves_and_gradients: Tensor) -> Tensor:
        ctx.save_for_backward(*leaves_and_gradients[len(leaves_and_gradients) // 2 :])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return None, *(grad * gradient for gradient in gradients), *(None for _ in gradients)


def num_pieces(num_rows: int, *, row_bytes: int, most: int) -> int:
    """Say in how many equal pieces to cut rows, for each to stay within `most` bytes; a row is never cut."""
    fitting = (num for num in range(1, num_rows) if not num_rows % num and row_bytes * num_rows <= num * most)
    return next(fitting, num_rows)


def _read_by_logits(stream: Stream, rows: slice) -> Stream:
    """Keep the tokens of the stream, for some rows: techniques on logits may read nothing that has a gradient."""
    return stream._replace(
        tokens=stream.tokens[rows],
        previous=stream.previous[rows],
        x0=stream.x0.new_empty(0),
        documents=None,
        tables={},
        first_values=None,
    )


def _joined(total: Known, part: Known) -> Known:
    """Add a piece to those before it, in place where it can."""
    for name, gradient in part.of_params.items():
        total.of_params[name].add_(gradient)
    return Known(
        Loss(*(before + new for before, new in zip(total.loss, part.loss, strict=True))),
        torch.cat([total.of_state, part.of_state]),
        total.of_head.add_(part.of_head),
        total.of_params,
    )
