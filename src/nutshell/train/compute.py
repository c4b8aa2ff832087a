"""How this machine computes a training step: precision, attention, and what is compiled.

On a CPU each block and the loss are compiled as regions of their own. All blocks then share one compiled region, and a
new schedule costs no compilation; compiling a whole schedule at once took three times as long and ran no faster.
"""

import shutil
from dataclasses import dataclass

import torch

from nutshell.machine import bf16_extension
from nutshell.model.config import ModelConfig
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.kernels.choose import choose_attend
from nutshell.train.config import TrainConfig


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
    def device(self) -> torch.device:
        return torch.device("cpu")

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
