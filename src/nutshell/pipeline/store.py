"""The files of a run directory: their names, and reading them back, with one clear line when that fails."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from nutshell.artifact.load import Loaded, load
from nutshell.config.loader import decode, read_table
from nutshell.data.dataset import Dataset
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import ArtifactError, ProofError, RunError, UsageError
from nutshell.files import read_json, sha256_bytes
from nutshell.recipe import Recipe
from nutshell.score.prove import Receipt
from nutshell.score.text import Documents

RECIPE = "recipe.toml"
DESCRIPTION = "describe.json"
METRICS = "metrics.jsonl"
PROBES = "probes.jsonl"
PROFILE = "profile.json"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
TOKENIZER = "tokenizer.model"
RECEIPT = "run.json"
ARTIFACT = "model.nut"
LEDGER = "pack.json"
EXPLANATION = "explain.json"
AVERAGES = "averages.json"
SCORE = "score.json"
PROOF = "proof.json"
BITSTREAM = "proof.nsp"
SUMMARY = "summary.json"
REPORT = "report.html"
DATA_TIMING = "build.json"
RUN_FILES = (
    *(RECIPE, DESCRIPTION, METRICS, PROBES, PROFILE, CHECKPOINT, WEIGHTS, TOKENIZER, RECEIPT),
    *("weights-last.safetensors", "weights-ema.safetensors", "weights-swa.safetensors"),
    *(ARTIFACT, LEDGER, EXPLANATION, AVERAGES, SCORE, PROOF, BITSTREAM, SUMMARY, REPORT),
)

# What a check has found to be as the receipt says.
CHECKED = (
    *("ok", "documents", "tokens", "bytes", "claimed_bits", "coded_bits"),
    *("text_sha256", "bitstream_sha256", "artifact_sha256"),
)


class StoredReceipt(Receipt, frozen=True, kw_only=True):
    """A proof's receipt as its stage writes it: with the artifact or the program it is of, and the seconds it took.

    `seal` is the hash of all the rest, so that no value changes unnoticed; whoever means to forge can seal again, and
    has the decoder to deceive then.
    """

    artifact_sha256: str
    command: str = ""
    seconds: float
    seal: str


def read_stage(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read what a stage wrote.

    Raises:
        RunError: the stage has not run here, or its file is damaged; `remedy` says what to do.
    """
    try:
        result = read_json(path)
    except FileNotFoundError as error:
        raise RunError(f"{path}: there is no such file; {remedy}") from error
    except ValueError as error:
        raise RunError(f"{error}; {remedy}") from error
    if not isinstance(result, dict):
        raise RunError(f"{path}: not a stage's result; {remedy}")
    return result


def receipt_beside(bitstream: Path) -> Path:
    """Name the receipt that lies beside a bitstream.

    Raises:
        UsageError: the bitstream has the receipt's name.
    """
    if not bitstream.name or bitstream.suffix == ".json":
        raise UsageError(f"{bitstream}: not a bitstream's name, for .json is the receipt beside it")
    return bitstream.with_suffix(".json")


def journal_beside(bitstream: Path) -> Path:
    """Name the folder in which a proof is kept while it is made."""
    return bitstream.with_suffix(".part")


def read_proof(bitstream: Path) -> tuple[bytes, StoredReceipt]:
    """Read a bitstream and the receipt beside it.

    Raises:
        ProofError: one of them cannot be read, or the receipt is none.
        UsageError: the bitstream has the receipt's name.
    """
    receipt = receipt_beside(bitstream)
    try:
        bits, written = bitstream.read_bytes(), msgspec.json.decode(receipt.read_bytes())
        found = msgspec.convert(written, StoredReceipt)
    except OSError as error:
        raise ProofError(f"{error.filename}: cannot read the proof ({error.strerror})") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProofError(f"{receipt}: not the receipt of a proof ({error})") from error
    if sealed(written)["seal"] != found.seal:
        raise ProofError(f"{receipt}: was altered: its seal is not that of its values")
    return bits, found


def sealed(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Give a receipt with the seal of its other values."""
    rest = {name: value for name, value in receipt.items() if name != "seal"}
    return rest | {"seal": sha256_bytes(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())}


def remove_run(run_dir: Path) -> None:
    """Delete a run directory.

    Raises:
        RunError: the folder holds something else than a run, and is left alone.
    """
    own = {*RUN_FILES, "data", journal_beside(Path(BITSTREAM)).name}
    if strangers := sorted(path.name for path in run_dir.iterdir() if path.name not in own):
        raise RunError(f"{run_dir}: holds '{strangers[0]}', which no run writes; delete the folder yourself")
    shutil.rmtree(run_dir)


def read_recipe(run_dir: Path) -> Recipe:
    """Read the resolved recipe of a run."""
    path = run_dir / RECIPE
    return decode(read_table(path), Recipe, where=str(path))


def read_artifact(path: Path) -> bytes:
    """Read an artifact's bytes.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read the artifact ({error.strerror})") from error


def open_artifact(path: Path) -> tuple[bytes, Loaded]:
    """Read an artifact and build its model."""
    content = read_artifact(path)
    return content, load(content, where=str(path))


def open_documents(data_dir: Path, loaded: Loaded) -> tuple[Dataset, Documents]:
    """Open the validation text of a data set as documents for an artifact's model.

    Raises:
        ArtifactError: the shards were made with another tokenizer than the artifact's.
        DataError: the data set is damaged, or its tokens do not decode to its text.
    """
    dataset = Dataset.open(data_dir)
    if dataset.tokenizer.sha256 != loaded.tokenizer.sha256:
        raise ArtifactError(
            f"{data_dir}: its shards are not of the artifact's tokenizer; give the data it was trained on"
        )
    return dataset, documents_of(dataset, loaded.tokenizer)


def documents_of(dataset: Dataset, tokenizer: Tokenizer) -> Documents:
    """Give the validation text of a data set as documents.

    Raises:
        DataError: the data set is damaged, or its tokens do not decode to its text.
    """
    dataset.check_scorable()
    dataset.verify()
    documents = list(dataset.val_documents())
    return Documents.of_text(documents, tokenizer, dataset.val_bytes, bounded=dataset.val_has_boundaries)


def check_all_active(run_dir: Path, receipt: Mapping[str, Any]) -> None:
    """Refuse to go on from a run in which something that was scheduled never acted; what it made is kept.

    Raises:
        RunError: there is such a thing.
    """
    if never := receipt.get("never_active"):  # older receipts have none
        raise RunError(
            f"{run_dir}: trained and kept, but '{never[0]}' was scheduled and never acted in {receipt['steps']} steps; "
            "mend the recipe"
        )
