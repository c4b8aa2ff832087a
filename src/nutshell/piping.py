"""The verbs for predictors that are other programs: scored and proved as artifacts are, and trusted in nothing."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nutshell.config.loader import decode
from nutshell.errors import ProofError, UsageError
from nutshell.files import write_bytes, write_json
from nutshell.pipeline import store
from nutshell.pipeline.programs import check_program, prove_program, score_program
from nutshell.report.tables import proof_view, score_view
from nutshell.report.terminal import Terminal
from nutshell.score.config import PROVED_DOCUMENTS, PROVED_TOKENS, ProveConfig

Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="")]

# Most that a program may take for an answer unless told: the first one may wait for a model to be loaded.
ANSWER_TIME = timedelta(seconds=60)


def pipe_score(
    command: str, *, data: Path, timeout: timedelta = ANSWER_TIME, out: Path | None = None, json: Json = False
) -> None:
    """Score a program that speaks docs/predictor-protocol.md on a data set's validation text.

    Args:
        command: the program with its arguments, as in `"python examples/adaptive.py 2048 1"`; no shell runs.
        data: data set with the program's tokenizer.
        timeout: most time that it may take for an answer.
        out: write the score to this file instead of printing it.
        json: print the score as JSON.
    """
    terminal = Terminal(as_json=json)
    with terminal.stage("score", unit="tokens") as advance:
        result = score_program(command, data, timeout=timeout.total_seconds(), progress=advance)
    if out:
        write_json(out, result)
    else:
        terminal.result(result, score_view)


def pipe_prove(
    command: str,
    *,
    data: Path,
    docs: int = PROVED_DOCUMENTS,
    max_tokens: int = PROVED_TOKENS,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    timeout: timedelta = ANSWER_TIME,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Score documents with a program, compress them with a fresh one, and decompress them with another.

    Args:
        command: the program with its arguments; no shell runs.
        data: data set with the program's tokenizer.
        docs: documents to prove, chosen by hash.
        max_tokens: most tokens in all; documents that do not fit are passed over.
        all_: prove every document.
        timeout: most time that it may take for an answer.
        out: write the bitstream to this file, and the receipt beside it as .json.
        json: print the receipt as JSON.
    """
    terminal = Terminal(as_json=json)
    if all_ and (docs, max_tokens) != (PROVED_DOCUMENTS, PROVED_TOKENS):
        raise UsageError("pipe prove: --all is every document; drop --docs and --max-tokens")
    receipt_path = store.receipt_beside(out) if out else None
    sample = decode({"documents": docs, "max_tokens": max_tokens}, ProveConfig, where="prove")
    with terminal.stage("prove", unit="tokens") as advance:
        bitstream, receipt = prove_program(
            command, data, None if all_ else sample, timeout=timeout.total_seconds(), progress=advance
        )
    if out and receipt_path:
        write_bytes(out, bitstream)
        write_json(receipt_path, receipt)
    else:
        terminal.result(receipt, proof_view)
    if not receipt["ok"]:
        raise ProofError(f"the score of this program is not proved: {receipt['reason']}")


def pipe_check(command: str, proof: Path, *, data: Path, timeout: timedelta = ANSWER_TIME, json: Json = False) -> None:
    """Decode a stored proof with a program, which is given no text.

    Args:
        command: the program with its arguments; no shell runs.
        proof: the bitstream, with its receipt beside it.
        data: data set whose tokenizer turns tokens into bytes; nothing else of it is read.
        timeout: most time that the program may take for an answer.
        json: print what was checked as JSON.
    """
    terminal = Terminal(as_json=json)
    with terminal.stage("check", unit="tokens") as advance:
        checked = check_program(command, data, proof, timeout=timeout.total_seconds(), progress=advance)
    terminal.result(checked, proof_view)
