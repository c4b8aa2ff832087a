"""What a step's tokens cost: from the model's last state to the objective, and to the nats that are reported."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nutshell.model.depth import MAX_VIRTUAL_LAYERS, DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.seams import Stream
from nutshell.nn.kernels.cross_entropy import Loss, Smoothing, cross_entropy
from nutshell.train.compute import Compute
from nutshell.train.config import TrainConfig

ReadOutLoss = Callable[[Float[Tensor, "B T D"], Stream, Int[Tensor, "B T"]], Loss]


class TrainingLoss:
    """Mean next-token cross-entropy of a model under a schedule, and the objective made of it.

    Compiles the model's blocks in place; a model that has been trained through this runs compiled afterwards.
    """

    def __init__(self, model: LM, compute: Compute, config: TrainConfig) -> None:
        self._model, self._compute = model, compute
        self._smoothing = Smoothing(config.label_smoothing, config.z_loss)
        self._read_out_loss: ReadOutLoss = self._plain_read_out_loss
        if compute.compiled:
            # A technique may read the number of its block or visit; each is then a graph of its own, and a deep model
            # has more of them than dynamo allows by default.
            torch._dynamo.config.recompile_limit = 4 * MAX_VIRTUAL_LAYERS
            # Skips and repeats change the graph, not the shapes: without dynamic=False the block numbers in a visit
            # would become symbols at the second block.
            for block in model.blocks:
                block.compile(fullgraph=True, dynamic=False)
            self._read_out_loss = torch.compile(self._plain_read_out_loss, fullgraph=True, dynamic=False)

    def __call__(self, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], schedule: DepthSchedule) -> Loss:
        stream = self._model.stream(inputs, dtype=self._compute.dtype, attend_kind=self._compute.attend_kind)
        return self._read_out_loss(self._model.trunk(stream, schedule), stream, targets)

    def _plain_read_out_loss(self, x: Tensor, stream: Stream, targets: Tensor) -> Loss:
        return cross_entropy(self._model.read_out(x, stream).flatten(0, 1), targets.flatten(), self._smoothing)
