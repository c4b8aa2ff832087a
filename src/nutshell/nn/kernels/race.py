"""How long an attention kernel takes for the work of a training, if it does that work right."""

import time
from typing import NamedTuple

import torch
from torch import Tensor

from nutshell.nn.cache import DocumentIds
from nutshell.nn.kernels.attend import AttendKind, attend
from nutshell.nn.kernels.bounds import document_bounds

# Rounding to bf16 moves an output or a gradient by some thousandths; a wrong mask or scale by far more.
TOLERANCE = 0.02
ROUNDS = 3
# More than this says nothing more, and takes memory from the training.
MAX_TOKENS = 65_536
DOCUMENT_TOKENS = 512


class Work(NamedTuple):
    """What attention has to do in one forward and backward."""

    rows: int
    seq_len: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    within_documents: bool = False


def race(kind: AttendKind, work: Work, device: torch.device, dtype: torch.dtype) -> float | None:
    """Give the milliseconds of forward and backward, the best of some rounds; None if it disagrees with fp32 products.

    Raises:
        RuntimeError: the kernel refuses the work, or memory is short.
    """
    work = work._replace(rows=max(1, min(work.rows, MAX_TOKENS // work.seq_len)))
    q, k, v, weight = (_drawn(work, heads, seed, device, dtype) for seed, heads in enumerate(_heads(work)))
    if not _agree(kind, work, [x[:1] for x in (q, k, v, weight)]):
        return None
    documents = _documents(work, device)
    return 1e3 * min(_seconds(kind, [q, k, v, weight], documents) for _ in range(1 + ROUNDS))


def _heads(work: Work) -> tuple[int, ...]:
    return (work.num_heads, work.num_kv_heads, work.num_kv_heads, work.num_heads)


def _drawn(work: Work, heads: int, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    shape = (work.rows, work.seq_len, heads, work.head_dim)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def _documents(work: Work, device: torch.device) -> DocumentIds | None:
    if not work.within_documents:
        return None
    starts = (torch.arange(work.seq_len, device=device) % DOCUMENT_TOKENS == 0).repeat(work.rows, 1)
    numbers = starts.cumsum(dim=1)
    return DocumentIds(numbers, numbers, document_bounds(starts))


def _agree(kind: AttendKind, work: Work, inputs: list[Tensor]) -> bool:
    """Compare one row's output and gradients with those of plain products in fp32."""
    documents = _documents(work._replace(rows=1), inputs[0].device)
    found = _outcome(kind, inputs, documents)
    wanted = _outcome("products", [x.float() for x in inputs], documents)
    pairs = zip(found, wanted, strict=True)
    return all(bool((one.float() - other).norm() <= TOLERANCE * other.norm()) for one, other in pairs)


def _outcome(kind: AttendKind, inputs: list[Tensor], documents: DocumentIds | None) -> list[Tensor]:
    """Attend, and give the output and the gradients of its weighed sum."""
    q, k, v, weight = (x.detach() for x in inputs)
    for leaf in (q, k, v):
        leaf.requires_grad_()
    y = attend(q, k, v, kind, documents)
    return [y, *torch.autograd.grad(y, (q, k, v), weight)]


def _seconds(kind: AttendKind, inputs: list[Tensor], documents: DocumentIds | None) -> float:
    _wait_for(inputs[0].device)
    start = time.perf_counter()
    _outcome(kind, inputs, documents)
    _wait_for(inputs[0].device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
