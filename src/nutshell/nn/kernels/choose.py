"""Which attention kernel serves a machine: a rule where a stored measurement stands behind it, else a race.

    products          two matrix products and a softmax                 CPU
    fused             torch's fused kernels, whichever torch takes      everywhere
    flash, cudnn      one of those and no other                         NVIDIA GPU
    flash3            FlashAttention 3 in the place of torch's flash    Hopper GPU, where it is installed
    varlen, varlen3   the variable-length kernel, torch's or FA 3's     the same GPUs, within documents

docs/compute.md says how the choice is made.
"""

import importlib.util
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.attention

from nutshell.errors import UsageError
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.kernels.race import Work, race

AttentionName = Literal["products", "fused", "flash", "cudnn", "flash3", "varlen", "varlen3"]

# Where the two kernels of a CPU take the same time (results/attention_cpu.json): beyond, the logits of all pairs leave
# the cache, and the fused kernel's tiling wins.
LONGEST_PRODUCTS_WINDOW = 256

FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_HEAD_DIMS = range(8, 257, 8)
AMPERE, HOPPER = (8, 0), (9, 0)

_SWITCHES = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "math": torch.backends.cuda.enable_math_sdp,
}


class Setting(NamedTuple):
    """How the model asks for a kernel, and what torch must be told before; `only` is empty for any of torch's."""

    kind: AttendKind
    only: str = ""
    flash3: bool = False


SETTINGS: Mapping[AttentionName, Setting] = {
    "products": Setting("products"),
    "fused": Setting("fused"),
    "flash": Setting("fused", only="flash"),
    "cudnn": Setting("fused", only="cudnn"),
    "flash3": Setting("fused", only="flash", flash3=True),
    "varlen": Setting("varlen"),
    "varlen3": Setting("varlen", flash3=True),
}


class Choice(NamedTuple):
    """The kernel that serves, and in milliseconds what a race measured; None for one that failed or disagreed."""

    name: AttentionName
    milliseconds: Mapping[AttentionName, float | None] = {}

    @property
    def kind(self) -> AttendKind:
        return SETTINGS[self.name].kind


def choose_attention(
    wanted: AttentionName | Literal["auto"], work: Work, device: torch.device, dtype: torch.dtype
) -> Choice:
    """Choose a kernel for training and tell torch; on a GPU with several, by timing them on the work itself.

    Raises:
        UsageError: the wanted one does not run here.
    """
    names = usable(work, device, dtype)
    if wanted != "auto":
        if wanted not in names:
            raise UsageError(f"train.attention '{wanted}' does not run here; usable: {', '.join(names)}")
        choice = Choice(wanted)
    elif device.type == "cpu":
        choice = Choice("products" if work.seq_len <= LONGEST_PRODUCTS_WINDOW else "fused")
    elif len(names) == 1:
        choice = Choice(names[0])
    else:
        choice = _fastest(names, work, device, dtype)
    try:
        activate(choice.name)
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"train.attention '{wanted}' does not load: {error}") from error
    return choice


def usable(work: Work, device: torch.device, dtype: torch.dtype) -> tuple[AttentionName, ...]:
    """Name the kernels that this device has for the work, the plainest first."""
    if device.type == "cpu":
        return ("products", "fused")
    if dtype not in FLASH_DTYPES or work.head_dim not in FLASH_HEAD_DIMS or not _has_flash(device):
        return ("fused",)
    has_flash3 = torch.cuda.get_device_capability(device) == HOPPER and importlib.util.find_spec("flash_attn_interface")
    if work.within_documents:
        return ("fused", "varlen", "varlen3") if has_flash3 else ("fused", "varlen")
    return ("flash", "cudnn", "flash3") if has_flash3 else ("flash", "cudnn")


def activate(name: AttentionName) -> None:
    """Tell torch which of its fused kernels it may take from here on.

    Raises:
        ImportError, RuntimeError: FlashAttention 3 is built for another torch, or lacks operators.
    """
    setting = SETTINGS[name]
    for backend, switch in _SWITCHES.items():
        switch(setting.only in ("", backend))
    if setting.flash3:
        if not _has_switch():
            raise ImportError("this torch cannot put FlashAttention 3 in the place of its own and take it back")
        torch.nn.attention.activate_flash_attention_impl("FA3")
    elif _has_switch() and torch.nn.attention.current_flash_attention_impl() is not None:
        torch.nn.attention.restore_flash_attention_impl()


def _has_switch() -> bool:
    """Say whether torch lets FlashAttention be replaced, and restored; the oldest that serve need not."""
    return hasattr(torch.nn.attention, "restore_flash_attention_impl")


def _fastest(names: tuple[AttentionName, ...], work: Work, device: torch.device, dtype: torch.dtype) -> Choice:
    measured: dict[AttentionName, float | None] = {}
    for name in names:
        try:
            activate(name)
            measured[name] = race(SETTINGS[name].kind, work, device, dtype)
        except (ImportError, RuntimeError):  # no such kernel for these shapes, or one that does not load
            measured[name] = None
    finished: list[tuple[float, AttentionName]] = [(time, name) for name, time in measured.items() if time is not None]
    return Choice(min(finished)[1] if finished else "fused", measured)


def _has_flash(device: torch.device) -> bool:
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= AMPERE
