"""Which attention kernel serves a machine: chosen by what it is and what the model needs, never by a recipe."""

import contextlib
import importlib.util

import torch
from torch.nn.attention import activate_flash_attention_impl

from nutshell.nn.kernels.attend import AttendKind

# Where the two kernels take the same time (results/attention_cpu.json): beyond, the logits of all pairs leave
# the cache, and the fused kernel's tiling wins.
LONGEST_PRODUCTS_WINDOW = 256

FLASH_DTYPES = (torch.bfloat16, torch.float16)
FLASH_HEAD_DIMS = range(8, 257, 8)
AMPERE, HOPPER = (8, 0), (9, 0)


def choose_attend(
    device: torch.device, dtype: torch.dtype, *, seq_len: int, head_dim: int, within_documents: bool
) -> AttendKind:
    """Choose a kernel for training windows of `seq_len` tokens in `dtype`.

    On a Hopper GPU where FlashAttention 3 is installed, it takes the place of torch's own flash kernels from here on,
    under "fused" as under "varlen".
    """
    if device.type != "cuda":
        return "products" if device.type == "cpu" and seq_len <= LONGEST_PRODUCTS_WINDOW else "fused"
    if dtype not in FLASH_DTYPES or head_dim not in FLASH_HEAD_DIMS or not _has_flash(device):
        return "fused"
    _take_flash_attention_3(device)
    return "varlen" if within_documents else "fused"


def _has_flash(device: torch.device) -> bool:
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= AMPERE


def _take_flash_attention_3(device: torch.device) -> None:
    if torch.cuda.get_device_capability(device) != HOPPER or not importlib.util.find_spec("flash_attn_interface"):
        return
    with contextlib.suppress(ImportError, RuntimeError):  # built for another torch, or without the operators it needs
        activate_flash_attention_impl("FA3")
