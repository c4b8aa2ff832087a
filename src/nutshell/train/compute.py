"""How this machine computes a training step: precision, attention, and what is compiled.

On a CPU each block and the loss are compiled as regions of their own. All blocks then share one compiled region, and a
new schedule costs no compilation; compiling a whole schedule at once took three times as long and ran no faster.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

from nutshell.machine import bf16_extension
from nutshell.model.config import ModelConfig
from nutshell.model.depth import MAX_VIRTUAL_LAYERS, DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.seams import Stream
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.kernels.choose import choose_attend
from nutshell.train.config import TrainConfig

ReadOutLoss = Callable[[Float[Tensor, "B T D"], Stream, Int[Tensor, "B T"]], Tensor]


@dataclass(frozen=True, slots=True)
class Compute:
    """The choices made for one run; recorded in its receipt."""

    dtype: torch.dtype
    attend_kind: AttendKind
    compiled: bool

    @classmethod
    def choose(cls, config: TrainConfig, model: ModelConfig) -> "Compute":
        """Pick bf16 where the processor multiplies it natively, and compile where there is a C++ compiler."""
        wanted = config.compute_dtype
        if wanted == "auto":
            wanted = "bf16" if bf16_extension() else "fp32"
        dtype = torch.bfloat16 if wanted == "bf16" else torch.float32
        return cls(
            dtype=dtype,
            attend_kind=choose_attend(
                torch.device("cpu"),
                dtype,
                seq_len=config.seq_len,
                head_dim=model.dims.head_dim,
                within_documents=model.attention.within_documents,
            ),
            compiled=config.compile == "auto" and any(map(shutil.which, ("g++", "clang++"))),
        )

    @property
    def precision(self) -> str:
        """The name that recipes have for the precision: `bf16` or `fp32`."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def facts(self) -> dict[str, object]:
        """Say what was chosen, for the receipt."""
        return {
            "compute_dtype": self.precision,
            "attention": self.attend_kind,
            "compiled": self.compiled,
            "threads": torch.get_num_threads(),
        }


class TrainingLoss:
    """Mean next-token cross-entropy in nats, in fp32, of a model under a schedule.

    Compiles the model's blocks in place; a model that has been trained through this runs compiled afterwards.
    """

    def __init__(self, model: LM, compute: Compute) -> None:
        self._model, self._compute = model, compute
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

    def __call__(self, inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], schedule: DepthSchedule) -> Tensor:
        stream = self._model.stream(inputs, dtype=self._compute.dtype, attend_kind=self._compute.attend_kind)
        return self._read_out_loss(self._model.trunk(stream, schedule), stream, targets)

    def _plain_read_out_loss(self, x: Tensor, stream: Stream, targets: Tensor) -> Tensor:
        return F.cross_entropy(self._model.read_out(x, stream).flatten(0, 1), targets.flatten())
