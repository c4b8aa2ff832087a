"""The proving stages: an artifact and a text to a proof of a score, and a proof to a verdict where no text is."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import msgspec

from nutshell.artifact.load import Loaded
from nutshell.errors import ArtifactError, NutshellError, ProofError, RunError
from nutshell.files import sha256_bytes, write_bytes
from nutshell.machine import code_digest, num_threads, processor, versions
from nutshell.pipeline import store
from nutshell.pipeline.coding import ArtifactCoder, online_predictor
from nutshell.pipeline.scoring import set_up
from nutshell.pipeline.strategies import StrategyConfig, own_strategy
from nutshell.ranks import ALONE
from nutshell.score.config import ProveConfig
from nutshell.score.layout import Layout, Shape
from nutshell.score.ledger import Score
from nutshell.score.means import Means
from nutshell.score.predictor import Progress
from nutshell.score.prove import Proof, prove, verify, what_differs
from nutshell.score.rolling import MOST_REMEMBERED
from nutshell.score.text import Documents

# Documents side by side, at most: a step of twice as many takes less than twice as long.
_ROWS = 64


def prove_artifact(
    artifact: Path,
    data_dir: Path,
    config: ProveConfig | None,
    *,
    strategy: StrategyConfig | None = None,
    claim: Mapping[str, Any] | None = None,
    journal_dir: Path | None = None,
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    """Encode documents with the artifact, decode them again, and compare with what a score claims for them.

    Args:
        artifact: The .nut file.
        data_dir: A data set of its tokenizer.
        config: Which sample of documents; None: all.
        strategy: By which they are scored here, if there is no claim; the artifact's own unless given.
        claim: A score of them, as `nutshell score --out` writes it.
        journal_dir: Where pieces are kept as they are done, until all are.
        progress: Told how far the work is.

    Returns:
        Bitstream and receipt.

    Raises:
        ArtifactError: the claim is about another artifact, or another schedule.
        RunError: the claim is no score.
        LegalityError: no decoder can follow the strategy.
    """
    start = time.perf_counter()
    set_up()
    content, loaded = store.open_artifact(artifact)
    _, documents = store.open_documents(data_dir, loaded)
    if config is not None:
        documents = documents.sample(num_documents=config.documents, max_tokens=config.max_tokens)
    artifact_sha256 = sha256_bytes(content)
    if claim is None:
        chosen = strategy or own_strategy(loaded)
        chosen.online(loaded, documents.num_targets)  # what cannot be proved should not be scored first
        score = chosen.score(loaded, documents, Means(), ALONE)
    else:
        score = _claimed(artifact, loaded, claim, artifact_sha256)
    shape = _shape(loaded, documents, score)
    bitstream, receipt = prove(
        ArtifactCoder(loaded),
        documents,
        score,
        environment=_environment(),
        shape=shape,
        journal=lambda layout: Journal(journal_dir, _digest(layout, artifact_sha256)) if journal_dir else {},
        progress=progress,
    )
    facts = {"artifact_sha256": artifact_sha256, "seconds": time.perf_counter() - start}
    return bitstream, store.sealed({**msgspec.to_builtins(receipt), **facts})


def check_proof(artifact: Path, bitstream: Path, *, note: Callable[[str], None], progress: Progress) -> dict[str, Any]:
    """Decode a stored proof with the artifact alone, where no text is; return what it proves.

    `note` is told, before the work begins, of what is otherwise than where the proof was made.

    Raises:
        ProofError: there is no proof, or it does not hold; the message says why.
    """
    start = time.perf_counter()
    set_up()
    bits, receipt = store.read_proof(bitstream)
    content, loaded = store.open_artifact(artifact)
    if receipt.artifact_sha256 != sha256_bytes(content):
        raise ProofError(f"{bitstream}: a proof of another artifact than {artifact}")
    environment = _environment()
    if differs := what_differs(receipt.environment, environment):
        note(f"the proof may not decode here{differs}")
    try:
        coder, proof = ArtifactCoder(loaded), Proof(bits, receipt)
        verify(coder, loaded.tokenizer, proof, environment=environment, progress=progress)
    except NutshellError as error:
        raise ProofError(f"{bitstream}: the proof does not hold: {error}") from error
    return {name: getattr(receipt, name) for name in store.CHECKED} | {"seconds": time.perf_counter() - start}


class Journal(MutableMapping[str, bytes]):
    """What a proof has done so far, a file each in a folder; what was done for another proof is thrown away."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        mark = folder / "of.txt"
        if folder.exists() and not (mark.exists() and mark.read_text() == digest):
            self.discard(folder)
        folder.mkdir(exist_ok=True)
        write_bytes(mark, digest.encode())

    @staticmethod
    def discard(folder: Path) -> None:
        """Delete a journal's folder, if there is one.

        Raises:
            RunError: the folder is no journal.
        """
        if not folder.exists():
            return
        if not (folder / "of.txt").exists():
            raise RunError(f"{folder}: not what a proof keeps while it is made; move it away")
        shutil.rmtree(folder)

    def __getitem__(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: bytes) -> None:
        write_bytes(self._path(name), value)

    def __delitem__(self, name: str) -> None:
        self._path(name).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in self._folder.glob("*.piece"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.piece"


def _claimed(artifact: Path, loaded: Loaded, claim: Mapping[str, Any], artifact_sha256: str) -> Score:
    """Take a score at its word, if it is about this artifact as it is."""
    if claim.get("artifact_sha256") != artifact_sha256:
        raise ArtifactError(f"{artifact}: the score to prove is that of another artifact; score this one first")
    if (ran := claim.get("schedule", loaded.schedule.text)) != loaded.schedule.text:
        raise ArtifactError(
            f"{artifact}: the score to prove ran '{ran}', the artifact runs '{loaded.schedule.text}'; "
            "score it without --schedule first"
        )
    try:
        return msgspec.convert(claim, Score)
    except msgspec.ValidationError as error:
        raise RunError(f"the claim is not what `nutshell score --out` writes ({error})") from error


def _shape(loaded: Loaded, documents: Documents, score: Score) -> Shape:
    """Cut a proof up: as many documents side by side as fit and pay, unless they must come in order."""
    whole = Layout.of(documents, score.strategy, Shape(in_order=True))
    in_order = online_predictor(loaded, whole).in_order
    rows = max(1, min(_ROWS, MOST_REMEMBERED // score.strategy.context))
    return Shape(in_order=in_order, rows=rows, threads=num_threads())


def _digest(layout: Layout, artifact_sha256: str) -> str:
    """Name the computation that a journal's pieces are of."""
    found = hashlib.sha256(msgspec.json.encode((layout, artifact_sha256, _environment(), code_digest())))
    return found.hexdigest()


def _environment() -> dict[str, str]:
    """List what a decoder's arithmetic may depend on, threads apart: these are the layout's."""
    return {"processor": processor(), **versions()}
