"""Build a data set from text: split, tokenizer, shards and manifest, all or nothing.

The source is read three times (to count it, to train the tokenizer, to write the shards), so it need not fit in memory.
Everything is written to a folder beside the target, then read back from the disk, decoded, and compared with the text
document by document. Only then does the folder get its name.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from nutshell import files
from nutshell.config.struct import Config
from nutshell.data.dataset import FORMAT, MANIFEST_NAME, Dataset, Manifest, ShardEntry, SideEntry
from nutshell.data.shards import Tokens, TokenStream, read_shard, write_shard
from nutshell.data.split import SIDES, Counts, Document, Side, Source, SplitText
from nutshell.data.tokenizer import Tokenizer
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of text are done, and of how many; 0 where that is not yet known."""

_TOKENIZER_NAME = "tokenizer.model"
# Already a quarter of the bundled corpus trains a tokenizer within 0.2 % of the best; more text only costs memory.
_TRAINING_BYTES = 20_000_000


class BuildConfig(Config, frozen=True):
    """How a data set is made of a source."""

    vocab_size: int
    val_frac: float = 0.05
    split_seed: int = 0
    shard_tokens: int = 100_000_000

    def __post_init__(self) -> None:
        """Refuse a split that cannot have two sides.

        Raises:
            DataError: `val_frac` is not between 0 and 1.
        """
        if not 0 < self.val_frac < 1:
            raise DataError(f"val_frac is {self.val_frac}, it must lie between 0 and 1")


def build(source: Source, out: Path, config: BuildConfig, progress: Progress = lambda *_: None) -> Dataset:
    """Build a data set in the folder `out`, which must not exist yet or be empty.

    Raises:
        DataError: no usable text, a side of the split without documents, a vocabulary that does not fit, a folder in
            the way, no space left. Nothing is left behind.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: exists already; choose another folder, or delete this one")
    staging = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        _build_in(staging, source, config, progress)
        staging.replace(out)
    except OSError as error:
        raise DataError(f"{out}: the data set cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(staging)
    return Dataset.open(out)


def _build_in(folder: Path, source: Source, config: BuildConfig, progress: Progress) -> None:
    text = SplitText(source, val_frac=config.val_frac, seed=config.split_seed)
    counts = _count(text, progress)
    total_bytes = sum(counts.bytes.values())
    progress("training the tokenizer", 0, total_bytes)
    tokenizer = train_tokenizer(
        (document.content for document in text if document.side == "train"),
        vocab_size=config.vocab_size,
        sample_every=-(-counts.bytes["train"] // _TRAINING_BYTES),
    )
    files.write_bytes(folder / _TOKENIZER_NAME, tokenizer.model_bytes)
    writers = {side: _ShardWriter(folder, side, config.shard_tokens) for side in SIDES}
    done_bytes = 0
    for document in text:
        writers[document.side].add(document, tokenizer)
        done_bytes += len(document.content)
        progress("tokenizing", done_bytes, total_bytes)
    entries = {}
    for side in SIDES:
        shards = writers[side].finish()
        progress(f"decoding {side} again", 0, counts.bytes[side])
        _prove_decodable(shards, tokenizer, writers[side].digests)
        entries[side] = SideEntry(
            documents=counts.documents[side],
            bytes=counts.bytes[side],
            tokens=writers[side].num_tokens,
            shards=tuple(
                ShardEntry(name=path.name, tokens=len(read_shard(path)), sha256=files.sha256_file(path))
                for path in shards
            ),
        )
    manifest = Manifest(
        format=FORMAT,
        source=source.description,
        licence=source.licence,
        val_frac=config.val_frac,
        split_seed=config.split_seed,
        empty_documents=counts.empty,
        duplicate_documents=counts.duplicates,
        vocab_size=tokenizer.vocab_size,
        tokenizer=_TOKENIZER_NAME,
        tokenizer_sha256=tokenizer.sha256,
        train=entries["train"],
        val=entries["val"],
    )
    files.write_json(folder / MANIFEST_NAME, msgspec.to_builtins(manifest))


def _count(text: SplitText, progress: Progress) -> Counts:
    done_bytes = 0
    for document in text:
        done_bytes += len(document.content)
        progress("reading", done_bytes, 0)
    counts = text.counts
    kept = sum(counts.documents.values())
    if kept == 0:
        raise DataError(f"no text to build from: {counts.empty:,} documents, all of them empty")
    for side in SIDES:
        if counts.documents[side] == 0:
            raise DataError(
                f"the split leaves no document for {side!r} out of {kept:,}; change val_frac or split_seed, or cut the "
                "text into more documents (one a file, or one a line of .jsonl)"
            )
    return counts


class _ShardWriter:
    """Collects one side's tokens, and writes a shard whenever there are enough."""

    def __init__(self, folder: Path, side: Side, shard_tokens: int) -> None:
        self.digests: list[bytes] = []
        self._name = f"nutshell_{side}"
        self._folder = folder
        self._shard_tokens = shard_tokens
        self._paths: list[Path] = []
        self._pending: list[Tokens] = []
        self._num_pending = 0
        self.num_tokens = 0

    def add(self, document: Document, tokenizer: Tokenizer) -> None:
        tokens = np.concatenate([[np.uint16(tokenizer.bos_id)], tokenizer.encode(document.content)])
        self.digests.append(document.digest)
        self._pending.append(tokens)
        self._num_pending += len(tokens)
        self.num_tokens += len(tokens)
        while self._num_pending >= self._shard_tokens:
            self._write(self._shard_tokens)

    def finish(self) -> list[Path]:
        """Write what is left and give the shards' paths."""
        if self._num_pending:
            self._write(self._num_pending)
        return self._paths

    def _write(self, num_tokens: int) -> None:
        tokens = np.concatenate(self._pending)
        path = self._folder / f"{self._name}_{len(self._paths):06d}.bin"
        write_shard(path, tokens[:num_tokens])
        self._paths.append(path)
        self._pending = [tokens[num_tokens:]]
        self._num_pending = len(self._pending[0])


def _prove_decodable(shards: list[Path], tokenizer: Tokenizer, digests: list[bytes]) -> None:
    """Decode what was written and compare it with what was read."""
    stream = TokenStream([read_shard(path) for path in shards])
    documents = stream.documents(tokenizer.bos_id)
    for index, (tokens, digest) in enumerate(zip(documents, digests, strict=True)):
        if hashlib.sha256(tokenizer.decode(tokens)).digest() != digest:
            raise DataError(
                f"document {index} of {shards[0].parent.name} did not come back as it was; please report this"
            )
