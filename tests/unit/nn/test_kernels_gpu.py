"""The attention kernels of a GPU against the plain products in fp32, forward and backward."""

import pytest
import torch

from nutshell.nn.cache import DocumentIds
from nutshell.nn.kernels.attend import attend
from nutshell.nn.kernels.bounds import document_bounds
from nutshell.nn.kernels.choose import SETTINGS, activate, choose_attention, usable
from nutshell.nn.kernels.race import Work, race

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
B, T, H, K, E = 3, 512, 4, 2, 64


def made(num_heads, seed):
    drawn = torch.randn(B, T, num_heads, E, generator=torch.Generator().manual_seed(seed))
    return drawn.to("cuda", torch.bfloat16).requires_grad_()


def made_documents(starts_at):
    starts = torch.zeros(B, T, dtype=torch.bool, device="cuda")
    for row, positions in enumerate(starts_at):
        starts[row, positions] = True
    numbers = starts.cumsum(dim=1)
    return DocumentIds(numbers, numbers, document_bounds(starts))


def outcome(kind, documents, dtype, attend=attend):
    """Attend, and give the output and the three gradients in fp32."""
    inputs = [x.detach().to(dtype).requires_grad_() for x in (made(H, 0), made(K, 1), made(K, 2))]
    y = attend(*inputs, kind, documents)
    weights = torch.randn(B, T, H, E, generator=torch.Generator().manual_seed(3)).to(y)
    return [y.float(), *(grad.float() for grad in torch.autograd.grad((y * weights).sum(), inputs))]


def assert_agree(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


GPU = torch.device("cuda")
WORK = Work(rows=B, seq_len=T, num_heads=H, num_kv_heads=K, head_dim=E)


@pytest.fixture
def kind():
    """The variable-length kernel, FlashAttention 3 in it where it is installed."""
    names = usable(WORK._replace(within_documents=True), GPU, torch.bfloat16)
    yield choose_attention(names[-1], WORK._replace(within_documents=True), GPU, torch.bfloat16).kind
    activate("fused")


@pytest.mark.parametrize("within", [False, True])
def test_every_usable_kernel_agrees_and_the_fastest_is_chosen(within):
    work = WORK._replace(within_documents=within)
    for name in usable(work, GPU, torch.bfloat16):
        activate(name)
        assert race(SETTINGS[name].kind, work, GPU, torch.bfloat16) is not None, name
    choice = choose_attention("auto", work, GPU, torch.bfloat16)
    activate("fused")
    assert choice.name in choice.milliseconds


def test_the_chosen_kernel_within_documents(kind):
    documents = made_documents([[0, 7, 300], [128], []])
    assert kind == "varlen"
    assert documents.bounds is not None
    assert_agree(outcome(kind, documents, torch.bfloat16), outcome("products", documents, torch.float32))


def test_the_chosen_kernel_compiled(kind):
    compiled = torch.compile(attend, fullgraph=True, dynamic=False)
    for starts_at in ([[0, 7, 300], [128], []], [[], [], []]):
        documents = made_documents(starts_at)
        found = outcome(kind, documents, torch.bfloat16, attend=compiled)
        assert_agree(found, outcome("products", documents, torch.float32))


def test_the_mask_serves_where_documents_are_too_many(kind):
    documents = made_documents([list(range(0, T, 2))] * B)
    assert documents.bounds is None
    assert_agree(outcome(kind, documents, torch.bfloat16), outcome("products", documents, torch.float32))


def test_dense_attention(kind):
    assert_agree(outcome(kind, None, torch.bfloat16), outcome("products", None, torch.float32))
    assert_agree(outcome("fused", None, torch.bfloat16), outcome("products", None, torch.float32))
