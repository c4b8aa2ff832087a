"""A data set: a folder of shards, the tokenizer that made them, and a manifest of what must be there.

Exports published by others have no manifest; a folder of their shards and one `.model` file opens as well. What the
manifest would have said, such as the bytes of the text, is then found by decoding.

Some exports tokenize a text that was transformed before. A sidecar beside their validation shards, in the same format,
then says how many bytes of the original text each token stands for.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from nutshell import files
from nutshell.data.exports import published_bytes_per_token
from nutshell.data.overlap import shared_documents
from nutshell.data.shards import Tokens, TokenStream, read_shard
from nutshell.data.split import SIDES
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import DataError

MANIFEST_NAME = "manifest.json"
OVERLAP_NAME = "overlap.json"
VAL_BYTES = "*_val_bytes_*.bin"
FORMAT = "nutshell data 1"

# Enough tokens for a ratio that only estimates, or for a look at whether a shard can be the tokenizer's.
_SAMPLE_TOKENS = 1 << 20


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One shard file; `tokens` counts its documents' BOS too."""

    name: str
    tokens: int
    sha256: str


class SideEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One side of the split; `bytes` are those of the text, `tokens` include one BOS a document."""

    documents: int
    bytes: int
    tokens: int
    shards: tuple[ShardEntry, ...]


class Overlap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many validation documents are in the training text too, and whether that was accepted."""

    documents: int
    allowed: bool = False


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an export was fetched from: repository, commit, folder of the shards and path of the tokenizer in it."""

    repo: str
    revision: str
    folder: str
    tokenizer: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a data set holds and how it was made; what only a split here can know is absent from a fetched one.

    `val_byte_shards` say how many bytes of the original text each validation token stands for, where the tokens
    themselves do not.
    """

    format: str
    source: str
    licence: str
    val_frac: float | None = None
    split_seed: int | None = None
    empty_documents: int | None = None
    duplicate_documents: int | None = None
    vocab_size: int
    tokenizer: str
    tokenizer_sha256: str
    train: SideEntry
    val: SideEntry
    val_byte_shards: tuple[ShardEntry, ...] = ()
    origin: Origin | None = None
    overlap: Overlap | None = None

    @property
    def shards(self) -> tuple[tuple[ShardEntry, ...], ...]:
        """The shards of the training text, of the validation text, and of its byte sidecar."""
        return self.train.shards, self.val.shards, self.val_byte_shards


class _Remembered(Overlap, frozen=True, kw_only=True):
    """What a scan of the data set with this digest has found, in a file beside it."""

    digest: str


class ShardPaths(NamedTuple):
    """The shard files of both sides, and the byte sidecar of the validation shards, if there is one."""

    train: Sequence[Path]
    val: Sequence[Path]
    val_bytes: Sequence[Path] = ()


class Dataset:
    """An open data set; shards stay on the disk until they are sliced.

    Attributes:
        val_token_bytes: bytes of the original text for each validation token, from a sidecar; else absent.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, paths: ShardPaths, manifest: Manifest | None) -> None:
        """Map the shards; `open` is the way to get here.

        Raises:
            DataError: a shard is damaged, or the byte sidecar does not go with the validation shards.
        """
        self.folder = folder
        self.tokenizer = tokenizer
        self.manifest = manifest
        self._paths = paths
        self.train = _map_shards(paths.train)
        self.val = _map_shards(paths.val)
        self.val_token_bytes = _map_shards(paths.val_bytes) if paths.val_bytes else None
        if self.val_token_bytes is not None and len(self.val_token_bytes) != len(self.val):
            raise DataError(
                f"{paths.val_bytes[0]}: the byte sidecar counts {len(self.val_token_bytes):,} tokens, the validation "
                f"shards hold {len(self.val):,}; copy both again"
            )

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open a folder and check that its parts belong together; `verify` also reads every byte.

        Raises:
            DataError: something is missing, damaged, or of another tokenizer.
        """
        if (folder / MANIFEST_NAME).is_file():
            return cls._open_built(folder)
        return cls._open_published(folder)

    def verify(self) -> None:
        """Read every shard: hashes must be the manifest's, each token the tokenizer's, and the sides must be apart.

        Raises:
            DataError: a shard was altered, or is of another tokenizer, or a validation document is in the training
                text.
        """
        if self.manifest is not None:
            for shard in itertools.chain(*self.manifest.shards):
                if files.sha256_file(self.folder / shard.name) != shard.sha256:
                    remedy = "fetch" if self.manifest.origin else "build"
                    raise DataError(
                        f"{self.folder / shard.name}: not what {MANIFEST_NAME} describes; {remedy} the data set again"
                    )
        self.check_tokens()
        self.check_overlap()

    def check_tokens(self) -> None:
        """Read every shard: each token must be one of the tokenizer's.

        Raises:
            DataError: a shard is of another tokenizer.
        """
        for paths, stream in ((self._paths.train, self.train), (self._paths.val, self.val)):
            for path, shard in zip(paths, stream.shards(), strict=True):
                _check_range(path, shard, self.tokenizer)

    def check_overlap(self) -> None:
        """Refuse a split that is none.

        Raises:
            DataError: a validation document is in the training text, and nobody has accepted that.
        """
        overlap = self.overlap
        if overlap.documents and not overlap.allowed:
            accept = (
                "fetch again with --allow-shared to use them nevertheless"
                if self.manifest is not None and self.manifest.origin
                else f'set "allowed": true in {self.folder / OVERLAP_NAME} to use them nevertheless'
            )
            raise DataError(
                f"{self.folder}: {overlap.documents:,} validation documents are in the training text too, so a score "
                f"on them says nothing; {accept}"
            )

    def check_scorable(self) -> None:
        """Refuse a text that the tokens are not: decoding gives another one, with other bytes.

        Raises:
            DataError: a sidecar says which bytes the tokens stand for.
        """
        if self.val_token_bytes is not None:
            raise DataError(
                f"{self.folder}: its text was transformed before it was tokenized, and this version cannot score by "
                "the byte sidecar beside it; `nutshell train` takes it, to score take an export without a sidecar"
            )

    @functools.cached_property
    def overlap(self) -> Overlap:
        """What the two sides share, from the manifest, or by one scan that is remembered beside the shards."""
        if self.manifest is not None and self.manifest.overlap is not None:
            return self.manifest.overlap
        remembered = self._remembered_overlap()
        if remembered is not None:
            return remembered
        found = Overlap(documents=len(shared_documents(self.train, self.val, self.tokenizer.bos_id)))
        with contextlib.suppress(OSError):  # where nothing can be written, the next training scans again
            files.write_json(self.folder / OVERLAP_NAME, {**msgspec.to_builtins(found), "digest": self.digest})
        return found

    def val_documents(self) -> Iterator[Tokens]:
        """Iterate over the validation documents, each without its BOS."""
        return self.val.documents(self.tokenizer.bos_id)

    @functools.cached_property
    def val_has_boundaries(self) -> bool:
        """Whether the validation shards say where documents begin; reads all of them."""
        return len(self.val.find(self.tokenizer.bos_id)) > 0

    @property
    def published_bytes_per_token(self) -> float | None:
        """Bytes per token of the validation text as published, if this is an export of which somebody said."""
        origin = self.manifest and self.manifest.origin
        return published_bytes_per_token(origin.folder) if origin else None

    @functools.cached_property
    def val_bytes(self) -> int:
        """Bytes of the validation text, counted by the sidecar, or by decoding, if there is no manifest."""
        if self.manifest is not None:
            return self.manifest.val.bytes
        if self.val_token_bytes is not None:
            return count_original_bytes(self.val_token_bytes)
        return count_bytes(self.val, self.tokenizer)

    @functools.cached_property
    def train_bytes_per_token(self) -> float:
        """Bytes of training text, as it was tokenized, for each token, BOS included; estimated without a manifest."""
        if self.manifest is not None:
            return self.manifest.train.bytes / len(self.train)
        sample = self.train[0:_SAMPLE_TOKENS]
        return int(self.tokenizer.byte_lengths(sample).sum()) / len(sample)

    @functools.cached_property
    def digest(self) -> str:
        """Identify the tokenizer and all tokens by one SHA-256, whatever the files and the folder are called."""
        if self.manifest is not None:
            hashes = [[shard.sha256 for shard in shards] for shards in self.manifest.shards]
        else:
            hashes = [[files.sha256_file(path) for path in paths] for paths in self._paths]
        without_sidecar = hashes if hashes[-1] else hashes[:-1]
        return files.sha256_bytes(msgspec.json.encode([self.tokenizer.sha256, *without_sidecar]))

    def _remembered_overlap(self) -> Overlap | None:
        try:
            found = msgspec.json.decode((self.folder / OVERLAP_NAME).read_bytes(), type=_Remembered)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.digest == self.digest else None

    @classmethod
    def _open_built(cls, folder: Path) -> "Dataset":
        path, manifest = folder / MANIFEST_NAME, read_manifest(folder)
        tokenizer = Tokenizer.from_file(folder / manifest.tokenizer)
        if tokenizer.sha256 != manifest.tokenizer_sha256:
            raise DataError(f"{folder / manifest.tokenizer}: not the tokenizer that made these shards; put it back")
        if tokenizer.vocab_size != manifest.vocab_size:
            raise DataError(f"{path}: counts {manifest.vocab_size:,} tokens in a tokenizer of {tokenizer.vocab_size:,}")
        paths = ShardPaths(*([folder / shard.name for shard in shards] for shards in manifest.shards))
        dataset = cls(folder, tokenizer, paths, manifest)
        for shard in itertools.chain(*manifest.shards):
            if len(read_shard(folder / shard.name)) != shard.tokens:
                raise DataError(f"{folder / shard.name}: not the {shard.tokens:,} tokens that {MANIFEST_NAME} counts")
        return dataset

    @classmethod
    def _open_published(cls, folder: Path) -> "Dataset":
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; build a data set there first")
        models = sorted(folder.glob("*.model"))
        if len(models) != 1:
            raise DataError(f"{folder}: no {MANIFEST_NAME}, and {len(models)} tokenizers (*.model) where one is needed")
        paths = ShardPaths(
            train=sorted(folder.glob("*_train_*.bin")),
            val=sorted(set(folder.glob("*_val_*.bin")) - set(folder.glob(VAL_BYTES))),
            val_bytes=sorted(folder.glob(VAL_BYTES)),
        )
        for side in SIDES:
            if not getattr(paths, side):
                raise DataError(f"{folder}: no shards named *_{side}_*.bin")
        dataset = cls(folder, Tokenizer.from_file(models[0]), paths, None)
        for path in (*paths.train, *paths.val):
            _check_range(path, read_shard(path)[:_SAMPLE_TOKENS], dataset.tokenizer)
        return dataset


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a data set.

    Raises:
        DataError: it cannot be read, or is none that this version knows.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: not a data set's manifest ({error}); build the data set again") from error
    if manifest.format != FORMAT:
        raise DataError(f"{path}: format {manifest.format!r}, this version reads {FORMAT!r}; build the data set again")
    return manifest


def count_bytes(tokens: TokenStream, tokenizer: Tokenizer) -> int:
    """Count the bytes of a text that begins with a document; reads all of it."""
    total = 0
    for start in range(0, len(tokens), _SAMPLE_TOKENS):
        before = min(start, 1)  # whether a token adds its space depends on the one before it
        total += int(tokenizer.byte_lengths(tokens[start - before : start + _SAMPLE_TOKENS])[before:].sum())
    return total


def count_original_bytes(token_bytes: TokenStream) -> int:
    """Add up a byte sidecar."""
    pieces = range(0, len(token_bytes), _SAMPLE_TOKENS)
    return sum(int(token_bytes[start : start + _SAMPLE_TOKENS].sum(dtype=np.int64)) for start in pieces)


def _map_shards(paths: Sequence[Path]) -> TokenStream:
    return TokenStream([read_shard(path) for path in paths])


def _check_range(path: Path, tokens: Tokens, tokenizer: Tokenizer) -> None:
    largest = int(tokens.max())
    if largest >= tokenizer.vocab_size:
        raise DataError(
            f"{path}: holds token {largest}, but the tokenizer has only {tokenizer.vocab_size:,}; "
            "put the tokenizer that made the shards beside them"
        )
