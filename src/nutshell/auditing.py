"""The verb that audits: an artifact, or what others wrote."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from nutshell.audit.noise import LEAST
from nutshell.errors import LegalityError, UndecidedError, UsageError
from nutshell.files import write_json
from nutshell.pipeline.auditing import audit_artifact, audit_program
from nutshell.pipeline.strategies import read_strategy
from nutshell.report.audit_tables import audit_view
from nutshell.report.terminal import Terminal

AtLeastOne = Annotated[int, Parameter(validator=validators.Number(gte=1))]


def audit(
    artifact: Path | None = None,
    *,
    data: Path,
    strategy: str | None = None,
    command: str | None = None,
    batch: str | None = None,
    scorer: str | None = None,
    independent: Annotated[bool, Parameter(negative="")] = False,
    tokens: AtLeastOne = LEAST,
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0, lt=2**63))] = 0,
    timeout: timedelta = timedelta(seconds=600),
    out: Path | None = None,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Look for ways of cheating: in an artifact's score, or in a predictor that somebody else wrote.

    Status 0 if every probe that could run has passed, 1 if one has failed, 2 if one cannot tell.

    Args:
        artifact: the .nut file.
        data: data set of its tokenizer; streams are cut from its validation text.
        strategy: how the artifact reads, as in `nutshell score --strategy`; by its own windows unless given.
        command: audit a program that speaks docs/predictor-protocol.md.
        batch: audit a program that is given a folder with a shard, and prints the nats of each target on a line.
        scorer: audit an object that can be imported here, `module:object`: a function of a stream, or a class of
            predictors.
        independent: the --batch program says that documents do not influence one another; hold it to that.
        tokens: of noise, for P1; a hashed cache is only seen once it is full.
        seed: of the streams.
        timeout: most time that a program may take, for an answer (--command) or a stream (--batch).
        out: write the verdicts to this file instead of printing them.
        json: print the verdicts as JSON.
    """
    named = [name for name in (artifact, command, batch, scorer) if name is not None]
    if len(named) != 1:
        raise UsageError("audit: name one thing, an artifact, or --command, --batch or --scorer")
    if strategy is not None and artifact is None:
        raise UsageError("audit: --strategy says how an artifact reads; drop it")
    if independent and batch is None:
        raise UsageError("audit: --independent is for --batch; others say it themselves")
    terminal = Terminal(as_json=json)
    with terminal.stage("audit", unit="probes") as advance:
        if artifact is not None:
            chosen = read_strategy(strategy) if strategy else None
            result = audit_artifact(artifact, data, chosen, tokens=tokens, seed=seed, progress=advance)
        else:
            result = audit_program(
                data,
                command=command,
                batch=batch,
                scorer=scorer,
                independent=independent,
                timeout=timeout.total_seconds(),
                tokens=tokens,
                seed=seed,
                progress=advance,
            )
    if out:
        write_json(out, result)
    else:
        terminal.result(result, audit_view)
    if result["answer"] == "passed":
        return
    names = {
        answer: ", ".join(verdict["probe"] for verdict in result["verdicts"] if verdict["answer"] == answer)
        for answer in ("failed", "cannot tell")
    }
    if result["answer"] == "failed":
        raise LegalityError(f"{named[0]}: failed {names['failed']}")
    raise UndecidedError(f"{named[0]}: nothing failed, and yet {names['cannot tell'] or 'no probe'} cannot tell")
