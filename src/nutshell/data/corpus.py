"""Build a data set from text: split, tokenizer, shards and manifest, all or nothing.

The source is read three times (to count it, to train the tokenizer, to write the shards), so it need not fit in memory.
Everything is written to a folder beside the target, then read back from the disk, decoded, and compared with the text
document by document. Only then does the folder get its name.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from nutshell import files
from nutshell.config.struct import Config
from nutshell.data.dataset import FORMAT, MANIFEST_NAME, Dataset, Manifest, Overlap, ShardEntry, SideEntry
from nutshell.data.shards import Tokens, TokenStream, read_shard, write_shard
from nutshell.data.split import SIDES, Counts, Document, Side, Source, SplitText
from nutshell.data.tokenizer import Tokenizer
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of text are done, and of how many: 0 while that is not known."""

_TOKENIZER_NAME = "tokenizer.model"
# Already a quarter of the bundled corpus trains a tokenizer within 0.2 % of the best; more text only costs memory.
_TRAINING_BYTES = 20_000_000
_MORE_DOCUMENTS = "cut the text into more documents (one a file, or one a line of .jsonl)"


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
    out = out.resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: exists already; choose another folder, or delete this one")
    staging = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        manifest = _build_in(staging, source, config, progress)
        files.write_json(staging / MANIFEST_NAME, msgspec.to_builtins(manifest))
        staging.replace(out)
    except OSError as error:
        raise DataError(f"{out}: the data set cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Dataset.open(out)


def _build_in(folder: Path, source: Source, config: BuildConfig, progress: Progress) -> Manifest:
    text = SplitText(source, val_frac=config.val_frac, seed=config.split_seed)
    done_bytes = 0
    for document in text:
        done_bytes += len(document.content)
        progress("reading", done_bytes, 0)
    counts = text.counts
    _check_sides(counts, source.description)
    total_bytes = sum(counts.bytes.values())

    progress("training the tokenizer", 0, total_bytes)
    tokenizer = train_tokenizer(
        (document.content for document in text if document.side == "train"),
        vocab_size=config.vocab_size,
        sample_every=-(-counts.bytes["train"] // _TRAINING_BYTES),
    )
    files.write_bytes(folder / _TOKENIZER_NAME, tokenizer.model_bytes)

    writers = {side: _SideWriter(folder, side, tokenizer, config.shard_tokens) for side in SIDES}
    done_bytes = 0
    for document in text:
        writers[document.side].add(document)
        done_bytes += len(document.content)
        progress("tokenizing", done_bytes, total_bytes)
    progress("decoding it all again", 0, total_bytes)
    shared = writers["train"].digests & writers["val"].digests
    assert not shared, "the split draws a document's side from its content"
    return Manifest(
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
        train=writers["train"].finish(),
        val=writers["val"].finish(),
        overlap=Overlap(documents=len(shared)),
    )


def _check_sides(counts: Counts, source: str) -> None:
    kept = sum(counts.documents.values())
    if kept == 0:
        raise DataError(f"{source}: no text to build from ({counts.empty:,} documents, all of them empty)")
    if kept == 1:
        raise DataError(f"{source}: one distinct document cannot be on both sides of the split; {_MORE_DOCUMENTS}")
    for side in SIDES:
        if counts.documents[side] == 0:
            change = "raise" if side == "val" else "lower"
            raise DataError(
                f"{source}: the split leaves none of the {kept:,} documents for {side!r}; {change} --val-frac, or "
                f"{_MORE_DOCUMENTS}"
            )


class _SideWriter:
    """Tokenizes one side's documents and writes a shard whenever there are tokens for one."""

    def __init__(self, folder: Path, side: Side, tokenizer: Tokenizer, shard_tokens: int) -> None:
        self._folder = folder
        self._side = side
        self._tokenizer = tokenizer
        self._shard_tokens = shard_tokens
        self._pending: list[Tokens] = []
        self._num_pending = 0
        self._paths: list[Path] = []
        self._digests: list[bytes] = []
        self._num_bytes = 0

    @property
    def digests(self) -> set[bytes]:
        """The hashes of the documents that were added."""
        return set(self._digests)

    def add(self, document: Document) -> None:
        bos = np.array([self._tokenizer.bos_id], dtype=np.uint16)
        tokens = self._tokenizer.encode(document.content)
        self._pending += [bos, tokens]
        self._num_pending += 1 + len(tokens)
        self._digests.append(document.digest)
        self._num_bytes += len(document.content)
        while self._num_pending >= self._shard_tokens:
            self._write(self._shard_tokens)

    def finish(self) -> SideEntry:
        """Write what is left, then read all shards from the disk and compare their text with what was read."""
        if self._num_pending:
            self._write(self._num_pending)
        shards = [read_shard(path) for path in self._paths]
        documents = TokenStream(shards).documents(self._tokenizer.bos_id)
        for index, (tokens, digest) in enumerate(zip(documents, self._digests, strict=True)):
            if hashlib.sha256(self._tokenizer.decode(tokens)).digest() != digest:
                raise DataError(f"{self._side} document {index} does not decode to its text; please report this")
        return SideEntry(
            documents=len(self._digests),
            bytes=self._num_bytes,
            tokens=sum(map(len, shards)),
            shards=tuple(
                ShardEntry(name=path.name, tokens=len(shard), sha256=files.sha256_file(path))
                for path, shard in zip(self._paths, shards, strict=True)
            ),
        )

    def _write(self, num_tokens: int) -> None:
        tokens = np.concatenate(self._pending)
        path = self._folder / f"nutshell_{self._side}_{len(self._paths):06d}.bin"
        write_shard(path, tokens[:num_tokens])
        self._paths.append(path)
        self._pending = [tokens[num_tokens:]]
        self._num_pending = len(self._pending[0])
