"""Scores and proofs of predictors that are other programs, which are asked and told over a pipe (score/pipe.py)."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nutshell.data.dataset import Dataset
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import DataError, NutshellError, ProofError
from nutshell.machine import versions
from nutshell.pipeline import store
from nutshell.score.config import ProveConfig
from nutshell.score.layout import Layout, Shape
from nutshell.score.pipe import Hello, PipePredictor
from nutshell.score.predictor import Progress
from nutshell.score.prove import CoderHere, Proof, prove, verify
from nutshell.score.sequential import score_online
from nutshell.score.text import Documents


def score_program(command: str, data_dir: Path, *, timeout: float, progress: Progress) -> dict[str, Any]:
    """Score the whole validation text with a program.

    Raises:
        PredictorError: it does not keep to the protocol.
        ProofError: what it answered is no distribution.
        DataError: it is for another vocabulary.
    """
    start = time.perf_counter()
    dataset, documents = _open(data_dir)
    with PipePredictor(command, timeout=timeout) as predictor:
        check_hello(predictor.hello, dataset.tokenizer)
        score = score_online(predictor, documents, kind="command", settings={"command": command}, progress=progress)
    seconds = time.perf_counter() - start
    return {
        **msgspec.to_builtins(score),
        "bytes_per_token": score.bytes / score.tokens,
        "tokens_per_second": score.tokens / seconds,
        "data_digest": dataset.digest,
        "seconds": seconds,
    }


def prove_program(
    command: str, data_dir: Path, config: ProveConfig | None, *, timeout: float, progress: Progress
) -> tuple[bytes, dict[str, Any]]:
    """Score documents with a program, encode them with a fresh one, decode them with another; give bits and receipt.

    `config` says which sample of documents; None: all.
    """
    start = time.perf_counter()
    dataset, documents = _open(data_dir)
    if config is not None:
        documents = documents.sample(num_documents=config.documents, max_tokens=config.max_tokens)
    total = documents.num_targets
    with PipePredictor(command, timeout=timeout) as predictor:
        check_hello(predictor.hello, dataset.tokenizer)
        score = score_online(
            predictor,
            documents,
            kind="command",
            settings={"command": command},
            progress=lambda done, _: progress(done, 3 * total),
        )
    with _coder(command, timeout) as coder:
        bitstream, receipt = prove(
            coder,
            documents,
            score,
            environment=versions(),
            shape=Shape(in_order=True),
            progress=lambda done, _: progress(total + done, 3 * total),
        )
    facts = {"artifact_sha256": "", "command": command, "seconds": time.perf_counter() - start}
    return bitstream, store.sealed({**msgspec.to_builtins(receipt), **facts})


def check_program(
    command: str, data_dir: Path, bitstream: Path, *, timeout: float, progress: Progress
) -> dict[str, Any]:
    """Decode a stored proof with a program; of the data set, only the tokenizer is read.

    Raises:
        ProofError: there is no proof, or it does not hold; the message says why.
    """
    start = time.perf_counter()
    bits, receipt = store.read_proof(bitstream)
    tokenizer = Dataset.open(data_dir).tokenizer
    if receipt.artifact_sha256:
        raise ProofError(f"{bitstream}: a proof of an artifact, not of a program")
    try:
        with _coder(command, timeout) as coder:
            verify(coder, tokenizer, Proof(bits, receipt), environment=versions(), progress=progress)
    except NutshellError as error:
        raise ProofError(f"{bitstream}: the proof does not hold: {error}") from error
    return {name: getattr(receipt, name) for name in store.CHECKED} | {"seconds": time.perf_counter() - start}


def check_hello(hello: Hello, tokenizer: Tokenizer) -> None:
    """Refuse a program that is for another tokenizer.

    Raises:
        DataError: its vocabulary or its BOS is another.
    """
    if (hello.vocab_size, hello.bos_id) != (tokenizer.vocab_size, tokenizer.bos_id):
        raise DataError(
            f"the text has {tokenizer.vocab_size} tokens, of which {tokenizer.bos_id} is BOS; the predictor says "
            f"{hello.vocab_size} and {hello.bos_id}"
        )


def _open(data_dir: Path) -> tuple[Dataset, Documents]:
    dataset = Dataset.open(data_dir)
    return dataset, store.documents_of(dataset, dataset.tokenizer)


@contextmanager
def _coder(command: str, timeout: float) -> Iterator[CoderHere]:
    """Give what codes with a fresh process for each piece; end them all."""
    with ExitStack() as processes:

        def started(layout: Layout) -> PipePredictor:
            return processes.enter_context(PipePredictor(command, timeout=timeout))

        yield CoderHere(started)
