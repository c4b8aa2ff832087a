"""A data set: a folder of shards, the tokenizer that made them, and a manifest of what must be there.

Exports published by others have no manifest; a folder of their shards and one `.model` file opens as well. What the
manifest would have said, such as the bytes of the text, is then found by decoding.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nutshell import files
from nutshell.data.shards import Tokens, TokenStream, read_shard
from nutshell.data.split import SIDES, Side
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import DataError

MANIFEST_NAME = "manifest.json"
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


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a data set holds and how it was made."""

    format: str
    source: str
    licence: str
    val_frac: float
    split_seed: int
    empty_documents: int
    duplicate_documents: int
    vocab_size: int
    tokenizer: str
    tokenizer_sha256: str
    train: SideEntry
    val: SideEntry

    def side(self, side: Side) -> SideEntry:
        """Look up a side by its name."""
        return self.train if side == "train" else self.val


class Dataset:
    """An open data set; shards stay on the disk until they are sliced."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, shards: dict[Side, list[Path]], manifest: Manifest | None
    ) -> None:
        """Map the shards; `open` is the way to get here."""
        self.folder = folder
        self.tokenizer = tokenizer
        self.manifest = manifest
        self._shards = shards
        self.train = TokenStream([read_shard(path) for path in shards["train"]])
        self.val = TokenStream([read_shard(path) for path in shards["val"]])

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
        """Read every shard: its hash must be the manifest's, if there is one, and each token one of the tokenizer's.

        Raises:
            DataError: a shard was altered, or is of another tokenizer.
        """
        for side in SIDES:
            if self.manifest is not None:
                for shard in self.manifest.side(side).shards:
                    if files.sha256_file(self.folder / shard.name) != shard.sha256:
                        raise DataError(
                            f"{self.folder / shard.name}: not what {MANIFEST_NAME} describes; build the data set again"
                        )
            for path in self._shards[side]:
                _check_range(path, read_shard(path), self.tokenizer)

    def val_documents(self) -> Iterator[Tokens]:
        """Iterate over the validation documents, each without its BOS."""
        return self.val.documents(self.tokenizer.bos_id)

    @functools.cached_property
    def val_bytes(self) -> int:
        """Bytes of the validation text, counted by decoding if there is no manifest."""
        if self.manifest is not None:
            return self.manifest.val.bytes
        return len(self.tokenizer.decode(self.val[0 : len(self.val)]))

    @functools.cached_property
    def train_bytes_per_token(self) -> float:
        """Bytes of training text for each token, BOS included; an estimate if there is no manifest."""
        if self.manifest is not None:
            return self.manifest.train.bytes / len(self.train)
        sample = self.train[0:_SAMPLE_TOKENS]
        return len(self.tokenizer.decode(sample)) / len(sample)

    @functools.cached_property
    def digest(self) -> str:
        """Identify the tokenizer and all tokens by one SHA-256, whatever the files and the folder are called."""
        content = [self.tokenizer.sha256, self._hashes("train"), self._hashes("val")]
        return files.sha256_bytes(msgspec.json.encode(content))

    def _hashes(self, side: Side) -> list[str]:
        if self.manifest is not None:
            return [shard.sha256 for shard in self.manifest.side(side).shards]
        return [files.sha256_file(path) for path in self._shards[side]]

    @classmethod
    def _open_built(cls, folder: Path) -> "Dataset":
        path = folder / MANIFEST_NAME
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        except msgspec.DecodeError as error:
            raise DataError(f"{path}: not a data set's manifest ({error}); build the data set again") from error
        if manifest.format != FORMAT:
            raise DataError(
                f"{path}: format {manifest.format!r}, this version reads {FORMAT!r}; build the data set again"
            )
        tokenizer = Tokenizer.from_file(folder / manifest.tokenizer)
        if tokenizer.sha256 != manifest.tokenizer_sha256:
            raise DataError(f"{folder / manifest.tokenizer}: not the tokenizer that made these shards; put it back")
        sides: dict[Side, list[Path]] = {
            "train": [folder / shard.name for shard in manifest.train.shards],
            "val": [folder / shard.name for shard in manifest.val.shards],
        }
        dataset = cls(folder, tokenizer, sides, manifest)
        for shard in (*manifest.train.shards, *manifest.val.shards):
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
        sides: dict[Side, list[Path]] = {
            "train": sorted(folder.glob("*_train_*.bin")),
            "val": sorted(folder.glob("*_val_*.bin")),
        }
        for side, paths in sides.items():
            if not paths:
                raise DataError(f"{folder}: no shards named *_{side}_*.bin")
        dataset = cls(folder, Tokenizer.from_file(models[0]), sides, None)
        for path in (*sides["train"], *sides["val"]):
            _check_range(path, read_shard(path)[:_SAMPLE_TOKENS], dataset.tokenizer)
        return dataset


def _check_range(path: Path, tokens: Tokens, tokenizer: Tokenizer) -> None:
    largest = int(tokens.max())
    if largest >= tokenizer.vocab_size:
        raise DataError(
            f"{path}: holds token {largest}, but the tokenizer has only {tokenizer.vocab_size:,}; "
            "put the tokenizer that made the shards beside them"
        )
