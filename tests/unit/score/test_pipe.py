"""Programs that keep to the protocol, and every way of not doing so."""

import os
import struct
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from nutshell.errors import DataError, PredictorError, ProofError
from nutshell.score.layout import Shape
from nutshell.score.pipe import PipePredictor, message, parse_answer, parse_hello, receive
from nutshell.score.prove import CoderHere, prove, verify
from nutshell.score.sequential import score_online
from score_twins import BOS, VOCAB_SIZE, ByteTokenizer, documents_of

EXAMPLES = Path(__file__).parents[3] / "examples"
PYTHON = f"{sys.executable} {EXAMPLES / 'adaptive.py'} {VOCAB_SIZE} {BOS}"
DOCUMENTS = documents_of(b"hello hello hello", b"", b"the cat sat on the mat")
HELLO = struct.pack("<8sHIIB", b"NUTSHELL", 1, VOCAB_SIZE, BOS, 0)
UNIFORM = np.full(VOCAB_SIZE, -np.log(VOCAB_SIZE), dtype="<f4").tobytes()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    program = tmp_path_factory.mktemp("c") / "adaptive"
    done = subprocess.run(
        ["cc", "-O2", "-Wall", "-Werror", "-o", program, EXAMPLES / "adaptive.c", "-lm"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return f"{program} {VOCAB_SIZE} {BOS}"


def program(tmp_path, body):
    """Write a predictor that says hello and then does what `body` says."""
    path = tmp_path / "predictor.py"
    path.write_text(
        "import struct, sys, time, os\n"
        f"hello, uniform = {HELLO!r}, {UNIFORM!r}\n"
        "def send(kind, content=b''):\n"
        "    sys.stdout.buffer.write(struct.pack('<I', 1 + len(content)) + kind + content)\n"
        "    sys.stdout.buffer.flush()\n" + body
    )
    return f"{sys.executable} {path}"


def counted_nats():
    """What the examples must score: counts from one, written out."""
    counts, nats = np.ones(VOCAB_SIZE), []
    for track in DOCUMENTS.tracks():
        for target in track.targets.tolist():
            nats.append(-np.log(counts[target] / counts.sum()))
            counts[target] += 1
    return sum(nats)


def test_the_example_in_python_scores_what_it_counts():
    with PipePredictor(PYTHON) as predictor:
        score = score_online(predictor, DOCUMENTS, kind="command", settings={"command": PYTHON})
    assert score.total_nats == pytest.approx(counted_nats(), rel=1e-6)
    assert (score.tokens, score.bytes, score.coverage) == (DOCUMENTS.num_targets, DOCUMENTS.num_bytes, 1.0)
    assert (score.strategy.kind, score.strategy.settings) == ("command", {"command": PYTHON})


def test_the_example_in_c_is_its_twin(compiled):
    with PipePredictor(compiled) as one, PipePredictor(PYTHON) as other:
        assert one.hello == other.hello
        for predictor in (one, other):
            predictor.begin(1)
        for token in (3, 3, 250, 0):
            np.testing.assert_allclose(one.predict(), other.predict(), rtol=0, atol=1e-6)
            one.tell(np.array([token]))
            other.tell(np.array([token]))


def test_a_program_is_proved_and_checked_by_fresh_ones(compiled):
    started = []

    def predictor_of(layout):
        started.append(PipePredictor(compiled))
        return started[-1]

    score = score_online(predictor_of(None), DOCUMENTS, kind="command")
    proof = prove(CoderHere(predictor_of), DOCUMENTS, score, environment={}, shape=Shape(in_order=True))
    assert proof.receipt.ok, proof.receipt.reason
    read = verify(CoderHere(predictor_of), ByteTokenizer(), proof, environment={})
    assert bytes(read[2].tolist()) == b"the cat sat on the mat"
    assert len(started) == 4
    for predictor in started:
        predictor.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('no GPU here')", r"ended by itself \(status 1\): no GPU here"),
        ("send(b'H', hello); sys.exit(3)", r"ended by itself \(status 3\)"),
        ("send(b'H', hello); time.sleep(60)", "has not answered within 0.7 s"),
        ("time.sleep(60)", "has not answered within 0.7 s"),
        ("send(b'H', hello); send(b'L', uniform[:-4])", "answered with 1024 bytes instead of 1028, 4 for each token"),
        ("send(b'H', hello); sys.stdout.buffer.write(b'\\x05\\x04\\0\\0L'); sys.exit()", "ended by itself"),
        ("send(b'H', hello); send(b'E', b'out of \\x1bmemory')", "gave up: out of \N{REPLACEMENT CHARACTER}memory"),
        ("send(b'L', uniform)", "kind b'L' where b'H' was due"),
        ("send(b'H', hello[:-1])", "hello has 18 bytes instead of 19"),
        ("send(b'H', b'NUTSHELL' + bytes([2, 0]) + hello[10:])", "does not speak version 1"),
        ("send(b'H', struct.pack('<8sHIIB', b'NUTSHELL', 1, 300, 300, 0))", "names BOS 300 of 300 tokens"),
        ("send(b'H', hello[:-1] + bytes([7]))", "says 7 of whether documents are independent"),
        ("sys.stdout.buffer.write(b'\\xff' * 99); sys.stdout.flush()", "a message of 4294967295 bytes, which none has"),
        ("print('loading ...', flush=True); time.sleep(60)", "which none has"),
    ],
)
def test_a_program_that_does_not_keep_to_the_protocol(tmp_path, body, said):
    def ask():
        with PipePredictor(program(tmp_path, body), timeout=0.7) as predictor:
            predictor.begin(1)
            predictor.predict()

    with pytest.raises(PredictorError, match=said):
        ask()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("send(b'H', hello); send(b'E', b'out of memory')", "gave up: out of memory"),
        ("send(b'H', hello); send(b'L', uniform); sys.exit('bye')", r"ended by itself \(status 1\): bye"),
    ],
)
def test_what_a_program_said_before_it_ended_is_heard(tmp_path, body, said):
    """Asking it fails once it has ended: its last message waits in the pipe."""
    with PipePredictor(program(tmp_path, body), timeout=5) as predictor:
        predictor._process.wait(5)
        predictor.begin(1)
        with pytest.raises(PredictorError, match=said):
            predictor.predict()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("uniform[:-4] + struct.pack('<f', float('nan'))", "logsumexp nan"),
        ("struct.pack('<f', 0.0) + uniform[4:]", "logsumexp 0.6"),
        ("uniform[:-4] + struct.pack('<f', float('inf'))", "logsumexp inf"),
        ("uniform[:-4] + struct.pack('<f', float('-inf'))", "not a finite"),
    ],
)
def test_what_is_no_distribution_is_named_by_document_and_token(tmp_path, answer, fault):
    body = f"send(b'H', hello); send(b'L', uniform); send(b'L', {answer}); time.sleep(60)"
    with PipePredictor(program(tmp_path, body), timeout=30) as predictor, pytest.raises(ProofError) as raised:
        score_online(predictor, DOCUMENTS, kind="command")
    assert "document 0, token 1: not a finite, normalised distribution" in str(raised.value)
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    ("command", "said"),
    [("", "no program is named"), ("/no/such/program -x", "cannot start it"), ("'", "not a command line")],
)
def test_a_command_that_cannot_be_started(command, said):
    with pytest.raises(PredictorError, match=said):
        PipePredictor(command)


def test_a_text_for_another_vocabulary():
    command = f"{sys.executable} {EXAMPLES / 'adaptive.py'} 300 0"
    with PipePredictor(command) as predictor, pytest.raises(DataError, match="257 tokens, the predictor one of 300"):
        score_online(predictor, DOCUMENTS, kind="command")


def test_what_a_program_has_started_ends_with_it(tmp_path):
    body = (
        "child = os.fork()\n"
        "if child == 0: time.sleep(600)\n"
        "send(b'H', hello)\n"
        "send(b'L', struct.pack('<f', child) + uniform[4:])\n"
        "time.sleep(60)"
    )
    with PipePredictor(program(tmp_path, body)) as predictor:
        predictor.begin(1)
        child = int(predictor.predict()[0, 0])
        os.kill(child, 0)
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the grandchild lives on")


def test_noise_in_the_pipe_is_always_one_line_and_always_ends():
    """100,000 streams: random bytes, or messages that were cut, grown or had bytes changed."""
    generator = np.random.default_rng(0)
    whole = [message(b"H", HELLO), message(b"L", UNIFORM), message(b"E", b"no"), message(b"L"), message(b"Z", b"zz")]
    outcomes = dict.fromkeys(("understood", "refused"), 0)
    for number in range(100_000):
        if number % 3 == 0:
            stream = generator.bytes(int(generator.integers(0, 40)))
        else:
            changed = bytearray(whole[number % len(whole)])
            for place in generator.integers(0, min(len(changed), 40), int(generator.integers(0, 4))):
                changed[place] = int(generator.integers(0, 256))
            stream = bytes(changed[: int(generator.integers(0, len(changed) + 1))]) if number % 2 else bytes(changed)
        try:
            kind, body = receive(BytesIO(stream).read)
            parse_hello(kind, body) if kind == b"H" else parse_answer(kind, body, VOCAB_SIZE)
            outcomes["understood"] += 1
        except PredictorError as error:
            outcomes["refused"] += "\n" not in str(error)
    assert sum(outcomes.values()) == 100_000
    assert min(outcomes.values()) > 1_000, outcomes


def test_programs_that_say_anything_end_as_one_line(tmp_path):
    """Through real pipes: hello and then noise, or noise from the beginning, cut anywhere."""
    generator = np.random.default_rng(1)
    path = tmp_path / "said"
    honest = message(b"H", HELLO) + 3 * message(b"L", UNIFORM)
    for number in range(150):
        said = bytearray(honest if number % 3 else generator.bytes(200))
        for place in generator.integers(0, len(said), int(generator.integers(1, 30))):
            said[place] = int(generator.integers(0, 256))
        path.write_bytes(bytes(said[: int(generator.integers(0, len(said)))]))

        def ask():
            with PipePredictor(f"cat {path}", timeout=20) as predictor:
                score_online(predictor, DOCUMENTS, kind="command")

        with pytest.raises((PredictorError, ProofError, DataError)) as raised:
            ask()
        assert "\n" not in str(raised.value)
