import pytest
import torch.distributed as dist

from nutshell.ranks import is_silence

PAIR = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] "


@pytest.mark.parametrize(
    "says",
    [
        "Connection closed by peer [127.0.0.1]:4321",
        "Read error [127.0.0.1]:4321: Connection reset by peer",
        "writev [127.0.0.1]:4321: Broken pipe",
        "Timed out waiting 600000ms for recv operation to complete",
        "Application timeout caused pair closure",
    ],
)
def test_a_peer_that_does_not_answer_is_silent(says):
    assert is_silence(RuntimeError(PAIR + says))


def test_an_error_of_the_process_groups_own_is_silence():
    assert is_silence(dist.DistBackendError("NCCL communicator was aborted"))


@pytest.mark.parametrize(
    "says",
    [
        "ProcessGroupGloo::allreduce: invalid tensor type at index 1 (gloo)",
        "[enforce fail at gloo/allreduce.cc:20] op.size > 0. input buffers differ in size",
        "mat1 and mat2 shapes cannot be multiplied (4x8 and 4x8)",
    ],
)
def test_what_the_program_did_wrong_is_not(says):
    assert not is_silence(RuntimeError(says))
