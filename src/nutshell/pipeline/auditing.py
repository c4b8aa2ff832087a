"""The audit: which probes a subject allows, run one after the other on streams cut from a data set."""

import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nutshell.artifact.load import Loaded
from nutshell.audit.batch_command import batch_command
from nutshell.audit.changes import FLIPS, SUFFIXES, probe_flips, probe_suffixes
from nutshell.audit.coverage import NAME as COVERAGE
from nutshell.audit.coverage import probe_coverage
from nutshell.audit.noise import NAME as NOISE
from nutshell.audit.noise import probe_noise
from nutshell.audit.normalised import NAME as NORMALISATION
from nutshell.audit.normalised import probe_normalised
from nutshell.audit.subjects import Online, Stream, Subject, imported, piped
from nutshell.audit.verdict import Answer, Verdict, overall
from nutshell.data.dataset import Dataset
from nutshell.data.reads import CHECK
from nutshell.data.verify import verify
from nutshell.errors import NutshellError
from nutshell.files import sha256_bytes
from nutshell.machine import versions
from nutshell.pipeline import store
from nutshell.pipeline.apart import run_apart
from nutshell.pipeline.programs import check_hello
from nutshell.pipeline.scoring import set_up
from nutshell.pipeline.strategies import StrategyConfig, own_strategy
from nutshell.ranks import ALONE
from nutshell.score.means import Means
from nutshell.score.predictor import Progress
from nutshell.score.text import Documents

TRAINED_ON_IT = "training on the text"
TRACE, APART, BOOT = "P6 access trace", "P7 separate texts", "P8 boot"
# Of the text, what probes read again and again: so many documents, and so many tokens of each.
_DOCUMENTS, _TOKENS_EACH = 12, 192
# Documents that an artifact reads side by side.
_ROWS = 32
# Calls of a scorer that is handed whole streams, to put every token of the vocabulary in one place; of a program, none,
# for each would be a process.
_CALLS, _PROCESSES = 20_000, 0
# Of a proof in an empty folder; what it codes is compared with what is scored here.
_BOOT_TOKENS = 4_000

Probe = Callable[[], Verdict]


def audit_artifact(
    artifact: Path,
    data_dir: Path,
    strategy: StrategyConfig | None,
    *,
    tokens: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Audit an artifact, read by a strategy, with all probes.

    Raises:
        LegalityError: the strategy cannot be followed token by token, so that it cannot be audited either.
    """
    set_up()
    content, loaded = store.open_artifact(artifact)
    dataset, documents = store.open_documents(data_dir, loaded)
    chosen = strategy or own_strategy(loaded)
    in_order = chosen.online(loaded, 1).in_order
    subject = Online(
        lambda total: nullcontext(chosen.online(loaded, total)),
        vocab_size=loaded.tokenizer.vocab_size,
        bos_id=loaded.tokenizer.bos_id,
        independent=not in_order,
        rows=1 if in_order else _ROWS,
    )
    own = {
        COVERAGE: lambda: _scored(subject, loaded, chosen, _cut(documents)),
        TRACE: lambda: _traced(artifact.parent, sha256_bytes(content), dataset),
        BOOT: lambda: _booted(artifact, data_dir),
    }
    probes = _probes(subject, dataset, documents, tokens=tokens, seed=seed, calls=_CALLS) | own
    return _run(probes, progress) | {"artifact_sha256": sha256_bytes(content), "data_digest": dataset.digest}


def audit_program(
    data_dir: Path,
    *,
    command: str | None = None,
    batch: str | None = None,
    scorer: str | None = None,
    independent: bool,
    timeout: float,
    tokens: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Audit what others wrote, with the probes that it allows; one of `command`, `batch` and `scorer` names it."""
    dataset = Dataset.open(data_dir)
    documents = store.documents_of(dataset, dataset.tokenizer)
    sizes = {"vocab_size": dataset.tokenizer.vocab_size, "bos_id": dataset.tokenizer.bos_id}
    if command is not None:
        subject: Subject = piped(command, timeout=timeout, check=lambda hello: check_hello(hello, dataset.tokenizer))
    elif batch is not None:
        subject = batch_command(batch, **sizes, independent=independent, timeout=timeout)
    else:
        assert scorer is not None
        subject = imported(scorer, **sizes)
    calls = _CALLS if scorer else _PROCESSES
    probes = _probes(subject, dataset, documents, tokens=tokens, seed=seed, calls=calls)
    return _run(probes, progress) | {"subject": command or batch or scorer, "data_digest": dataset.digest}


def _probes(
    subject: Subject, dataset: Dataset, documents: Documents, *, tokens: int, seed: int, calls: int
) -> dict[str, Probe]:
    """List the probes by name, in order."""
    cut = _cut(documents)
    text = _stream(cut)
    return {
        NOISE: lambda: probe_noise(subject, tokens=tokens, seed=seed),
        NORMALISATION: lambda: probe_normalised(subject, text, most_calls=calls),
        FLIPS: lambda: probe_flips(subject, text, seed=seed),
        SUFFIXES: lambda: probe_suffixes(subject, text, seed=seed),
        COVERAGE: lambda: probe_coverage(subject, text, cut.num_bytes),
        TRACE: lambda: _not_run(TRACE, "what was read in training is not known here", TRAINED_ON_IT),
        APART: lambda: _apart(dataset),
        BOOT: lambda: _not_run(BOOT, "there is no artifact to boot from", "hidden files, wrong sizes"),
    }


def _run(probes: dict[str, Probe], progress: Progress) -> dict[str, Any]:
    """Run probes; what goes wrong with one of them is its verdict, and the others go on."""
    verdicts = []
    for number, (name, probe) in enumerate(probes.items()):
        progress(number, len(probes))
        try:
            verdicts.append(probe())
        except NutshellError as error:
            verdicts.append(_verdict(name, "failed", str(error), "nothing", "what was not reached"))
    progress(len(probes), len(probes))
    return {"answer": overall(verdicts), "verdicts": msgspec.to_builtins(verdicts), "versions": versions()}


def _cut(documents: Documents) -> Documents:
    """Take the beginnings of the first documents."""
    some = documents.take(range(min(_DOCUMENTS, len(documents.ids))))
    return replace(
        some,
        tokens=tuple(own[:_TOKENS_EACH] for own in some.tokens),
        byte_lengths=tuple(own[:_TOKENS_EACH] for own in some.byte_lengths),
    )


def _stream(documents: Documents) -> Stream:
    """Lay documents end to end, BOS first and last."""
    bos = np.array([documents.tokenizer.bos_id], dtype=np.int64)
    return np.concatenate([bos, *(part for own in documents.tokens for part in (own.astype(np.int64), bos))])


def _scored(subject: Online, loaded: Loaded, strategy: StrategyConfig, documents: Documents) -> Verdict:
    """Score documents as is reported, and hold it to what was predicted token by token."""
    score = strategy.score(loaded, documents, Means(), ALONE)
    predicted = float(subject.score(_stream(documents)).nats.sum())
    apart = abs(score.total_nats - predicted) / predicted
    whole = (score.tokens, score.bytes) == (documents.num_targets, documents.num_bytes)
    return Verdict(
        probe=COVERAGE,
        answer="passed" if whole and apart <= 1e-4 else "failed",
        evidence=f"{score.tokens:,} of {documents.num_targets:,} targets, {score.bytes:,} of {documents.num_bytes:,} "
        f"bytes; {score.total_nats:,.2f} nats reported, {predicted:,.2f} predicted",
        saw=f"{documents.num_targets:,} targets of {len(documents.ids)} documents",
        needs="1 document",
        blind="other documents; prove --all sees all of them",
    )


def _apart(dataset: Dataset) -> Verdict:
    """P7: what must hold of a data set, above all that no validation document is in the training text."""
    checks = verify(dataset)
    failed = [f"{check.name}: {check.evidence}" for check in checks if check.verdict == "failed"]
    unsure = [f"{check.name}: {check.evidence}" for check in checks if check.verdict == "cannot tell"]
    answer: Answer = "failed" if failed else "cannot tell" if unsure else "passed"
    evidence = "; ".join(failed or unsure) or f"{len(checks)} checks of the data set passed"
    return _verdict(APART, answer, evidence, "the whole data set", "paraphrases; text that came from elsewhere")


def _traced(run_dir: Path, artifact_sha256: str, dataset: Dataset) -> Verdict:
    """P6: the run that made the artifact must have read validation text for checks before the first step alone."""
    if not all((run_dir / name).exists() for name in (store.RECEIPT, store.LEDGER)):
        return _not_run(TRACE, "the run that made it is not beside it", TRAINED_ON_IT)
    receipt = store.read_stage(run_dir / store.RECEIPT, remedy="train again")
    ledger = store.read_stage(run_dir / store.LEDGER, remedy="pack again")
    if ledger["artifact_sha256"] != artifact_sha256 or ledger["weights_sha256"] != receipt["weights_sha256"]:
        return _not_run(TRACE, "the run beside it made another artifact", TRAINED_ON_IT)
    if receipt["data_digest"] != dataset.digest:
        return _not_run(TRACE, "it was trained on another data set", TRAINED_ON_IT)
    traces = [session.get("reads") for session in receipt["sessions"]]
    if not all(traces):
        return _not_run(TRACE, "the run beside it kept no trace", TRAINED_ON_IT)
    read: dict[str, int] = {}
    for trace in traces:
        for purpose, sides in trace.items():
            read[purpose] = read.get(purpose, 0) + sides["val"]
    wrongly = any(number for purpose, number in read.items() if purpose != CHECK)
    evidence = "validation tokens read: " + ", ".join(f"{number:,} ({purpose})" for purpose, number in read.items())
    blind = "files that were opened past the data set; a receipt that was written by hand"
    return _verdict(TRACE, "failed" if wrongly else "passed", evidence, f"{len(traces)} sessions", blind)


def _booted(artifact: Path, data_dir: Path) -> Verdict:
    """P8: in an empty folder, with nothing but the artifact and the text, a fresh process must prove what it scores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(artifact, folder / "model.nut")
        sample = ["--docs", "2", "--max-tokens", str(_BOOT_TOKENS)]
        done = run_apart(["prove", "model.nut", "--data", str(data_dir.resolve()), *sample, "--json"], folder)
        left = sorted(path.name for path in folder.iterdir() if path.name != "model.nut")
    where = "in an empty folder" + (" without a network" if done.without_network else "")
    blind = "what is on this machine besides" + ("" if done.without_network else "; the network is only discouraged")
    if done.status:
        said = done.err.decode("utf-8", errors="replace").strip().splitlines()[-1:]
        return _verdict(BOOT, "failed", f"{where}: {''.join(said)}", "one process", blind)
    receipt = msgspec.json.decode(done.out)
    evidence = (
        f"{receipt['tokens']:,} tokens scored, coded and decoded by fresh processes {where}: "
        f"{receipt['overhead']:+.3%} of the claim" + (f"; it left {', '.join(left)}" if left else "")
    )
    return _verdict(BOOT, "passed", evidence, f"{receipt['tokens']:,} tokens", blind)


def _not_run(probe: str, why: str, blind: str) -> Verdict:
    return _verdict(probe, "not run", why, "nothing", blind)


def _verdict(probe: str, answer: Answer, evidence: str, saw: str, blind: str) -> Verdict:
    return Verdict(probe=probe, answer=answer, evidence=evidence, saw=saw, needs="1 run", blind=blind)
