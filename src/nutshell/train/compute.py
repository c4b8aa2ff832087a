"""How this machine computes a training step: device, precision, attention, and what is compiled.

On a CPU each block and the loss are compiled as regions of their own. All blocks then share one compiled region, and a
new schedule costs no compilation; compiling a whole schedule at once took three times as long and ran no faster. On a
GPU, where a region's launch is paid by each visit, a schedule is one region: it is compiled before the clock anyway.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.utils._triton import has_triton

from nutshell.machine import bf16_extension, num_threads
from nutshell.memory import keep_freed_memory
from nutshell.model.config import ModelConfig
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.kernels.choose import AttentionName, choose_attention
from nutshell.nn.kernels.race import Work
from nutshell.train.config import TrainConfig

CPU = torch.device("cpu")
Scope = Literal["blocks", "schedules"]


@dataclass(frozen=True, slots=True)
class Compute:
    """The choices made for one run; recorded in its receipt.

    Attributes:
        dtype: of activations and products; weights stay in fp32.
        attend_kind: how the model asks for its attention kernel.
        compiled: whether anything is.
        device: where the model lives.
        scope: what is compiled in one piece, where anything is.
        attention: the kernel's full name; that of its kind if not given.
        attention_ms: what a race of kernels measured.
    """

    dtype: torch.dtype
    attend_kind: AttendKind
    compiled: bool
    device: torch.device = CPU
    scope: Scope = "blocks"
    attention: AttentionName | None = None
    attention_ms: Mapping[AttentionName, float | None] = field(default_factory=dict)

    @classmethod
    def choose(cls, config: TrainConfig, model: ModelConfig) -> "Compute":
        """Pick what is fastest here, as far as the recipe leaves it open.

        Raises:
            UsageError: the recipe wants an attention kernel that does not run here.
        """
        device = choose_device()
        dtype = _choose_dtype(config, device)
        choice = choose_attention(config.attention, _work(config, model), device, dtype)
        return cls(
            dtype=dtype,
            attend_kind=choice.kind,
            compiled=config.compile != "never" and has_compiler(device),
            device=device,
            scope=_choose_scope(config, device),
            attention=choice.name,
            attention_ms=choice.milliseconds,
        )

    def set_up(self) -> None:
        """Tell torch and the C library what this process is going to do.

        A CPU computes the same bits again; a GPU need not, since its fast kernels add up in no fixed order.
        """
        torch.use_deterministic_algorithms(mode=self.device.type == "cpu")
        torch.set_num_threads(num_threads())
        # fp32 means fp32: what a bf16 step leaves in it is small, and an fp32 run asked for it.
        torch.set_float32_matmul_precision("highest")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        else:
            keep_freed_memory()

    @property
    def precision(self) -> str:
        """The name that recipes have for the precision: `bf16` or `fp32`."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def facts(self) -> dict[str, object]:
        """Say what was chosen, for the receipt; a run resumed with other facts is another one to the last bit."""
        return {
            "compute_dtype": self.precision,
            "attention": self.attention or self.attend_kind,
            "compiled": self.compiled,
            "compiled_scope": self.scope if self.compiled else None,
            "threads": torch.get_num_threads(),
        }

    def timings(self) -> dict[str, object]:
        """Say what was measured to choose, for the receipt; it differs each time."""
        return {"attention_ms": dict(self.attention_ms)} if self.attention_ms else {}


def choose_device() -> torch.device:
    """Give this process's GPU (`LOCAL_RANK` says which) if there is one, else the CPU."""
    if not torch.cuda.is_available():
        return CPU
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _choose_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """Pick bf16 where the machine multiplies it natively."""
    if config.compute_dtype != "auto":
        return torch.bfloat16 if config.compute_dtype == "bf16" else torch.float32
    on_gpu = device.type == "cuda"
    native = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else bf16_extension() is not None
    return torch.bfloat16 if native else torch.float32


def _work(config: TrainConfig, model: ModelConfig) -> Work:
    """Describe the attention of the longest context that the run has."""
    seq_len = max(config.seq_len, *(phase.seq_len or 0 for phase in config.phases), 0)
    rows = max(1, config.batch_size // int(os.environ.get("WORLD_SIZE", "1")))
    return Work(
        rows=min(rows, config.micro_batch_size or rows),
        seq_len=seq_len,
        num_heads=model.attention.num_heads,
        num_kv_heads=model.attention.num_kv_heads,
        head_dim=model.dims.head_dim,
        within_documents=model.attention.within_documents,
    )


def has_compiler(device: torch.device) -> bool:
    """Say whether what compiles a step for a device is installed."""
    return has_triton() if device.type == "cuda" else any(map(shutil.which, ("g++", "clang++")))


def _choose_scope(config: TrainConfig, device: torch.device) -> Scope:
    if config.compile in ("blocks", "schedules"):
        return config.compile
    return "schedules" if device.type == "cuda" else "blocks"
