"""Fetch a published export into a folder that opens, trains and scores like one that was built here.

Shards arrive one by one under the names they are published with, each checked against the hub's own checksum; the
manifest is written last, when all are there and have been read once: to count their documents and bytes, to see that
each token is the tokenizer's, and to look for validation documents in the training text. A fetch that was stopped goes
on where it was, and one that asks for more shards of the same commit adds them.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from nutshell import files
from nutshell.data.dataset import (
    FORMAT,
    MANIFEST_NAME,
    Dataset,
    Manifest,
    Origin,
    Overlap,
    ShardEntry,
    ShardPaths,
    SideEntry,
    count_bytes,
    count_original_bytes,
    read_manifest,
)
from nutshell.data.exports import EXPORTS, LICENCE, Export, shard_kind
from nutshell.data.hub import HubFile, HubRepo
from nutshell.data.overlap import shared_documents
from nutshell.data.shards import TokenStream, read_shard
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import DataError
from nutshell.units import format_bytes

Progress = Callable[[int, int], None]
"""Told how many bytes are there, and of how many."""

# Left free on the device, for the manifest and for whoever shares it.
_SPARE_BYTES = 64_000_000


class Wanted:
    """The files of an export that are asked for."""

    def __init__(self, export: Export, hub: HubRepo, train_shards: int) -> None:
        """Choose the first training shards, all of validation, and the tokenizer.

        Raises:
            DataError: the repository does not hold the export, or not so many shards of it.
        """
        self.export = export
        shards: dict[str | None, list[HubFile]] = {"train": [], "val": [], "val_bytes": []}
        for path in sorted(hub.files):
            folder, _, name = path.rpartition("/")
            if folder == export.folder:
                shards.setdefault(shard_kind(name), []).append(hub.files[path])
        for kind in ("train", "val"):
            if not shards[kind]:
                raise DataError(f"{hub.repo}: holds no {kind} shards in {export.folder} at {hub.revision[:12]}")
        if train_shards > len(shards["train"]):
            raise DataError(
                f"{hub.repo}: has {len(shards['train'])} training shards in {export.folder}, {train_shards} are asked "
                "for; lower --train-shards"
            )
        if export.tokenizer not in hub.files:
            raise DataError(f"{hub.repo}: holds no {export.tokenizer} at {hub.revision[:12]}")
        self.tokenizer = hub.files[export.tokenizer]
        self.train = shards["train"][:train_shards]
        self.val, self.val_bytes = shards["val"], shards["val_bytes"]

    @property
    def files(self) -> list[HubFile]:
        """All of them, the small ones first, so that what is wrong with them shows early."""
        return [self.tokenizer, *self.val_bytes, *self.val, *self.train]


def fetch(
    name: str,
    out: Path,
    *,
    train_shards: int,
    revision: str = "main",
    repo: str | None = None,
    allow_shared: bool = False,
    progress: Progress = lambda *_: None,
) -> Dataset:
    """Fetch an export by its name into the folder `out`, made if missing.

    Args:
        name: one of `EXPORTS`.
        out: the data set's folder.
        train_shards: how many training shards, the first ones.
        revision: branch, tag or commit of the repository.
        repo: a copy of the export's repository, with the same layout.
        allow_shared: accept validation documents that are in the training text too.
        progress: told of the bytes that are there.

    Raises:
        DataError: no such export; the hub, the disk or the folder cannot serve; what arrived does not belong together;
            or a validation document is in the training text.
    """
    if name not in EXPORTS:
        raise DataError(f"no export {name!r}; there are {', '.join(EXPORTS)}")
    if train_shards < 1:
        raise DataError(f"--train-shards {train_shards}: at least 1 is needed to train")
    export = EXPORTS[name]._replace(**({"repo": repo} if repo else {}))
    hub = HubRepo(export.repo, revision)
    wanted = Wanted(export, hub, train_shards)
    origin = Origin(repo=hub.repo, revision=hub.revision, folder=export.folder, tokenizer=export.tokenizer)
    try:
        missing = [file for file in wanted.files if not file.is_at(out / file.name)]
        _check_folder(out, origin, wanted.files, missing)
        out.mkdir(parents=True, exist_ok=True)
        _bring(hub, missing, out, progress, total=sum(file.size for file in wanted.files))
        manifest = _describe(out, wanted, origin, allow_shared=allow_shared)
        files.write_json(out / MANIFEST_NAME, msgspec.to_builtins(manifest))
        for part in out.glob(".*.part"):  # of files that the repository has changed since
            part.unlink()
    except OSError as error:
        raise DataError(f"{out}: the data set cannot be written ({error.strerror or error})") from error
    dataset = Dataset.open(out)
    dataset.check_overlap()
    return dataset


def _check_folder(out: Path, origin: Origin, wanted: Sequence[HubFile], missing: Sequence[HubFile]) -> None:
    """Refuse a folder that holds anything else than a part of this very export; nobody's file is written over.

    Raises:
        DataError: it does.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out}: is no folder; choose another --out")
    if (out / MANIFEST_NAME).exists():
        found = read_manifest(out).origin
        if found is None:
            raise DataError(f"{out}: holds a data set that was built here; choose another --out")
        if found != origin:
            raise DataError(
                f"{out}: holds {found.folder} of {found.repo} at {found.revision[:12]}, which is not what is asked "
                f"for ({origin.revision[:12]}); choose another --out, or --revision {found.revision} to add to it"
            )
        return
    own = {file.name for file in wanted}
    for path in sorted(out.iterdir()):
        if path.name not in own and not path.name.endswith((".part", ".tmp")) and not shard_kind(path.name):
            raise DataError(f"{out}: holds {path.name!r}, which is no part of the export; choose another --out")
    for file in missing:
        if (out / file.name).exists():
            raise DataError(f"{out / file.name}: is not the export's file; delete it, or choose another --out")


def _bring(hub: HubRepo, missing: Sequence[HubFile], out: Path, progress: Progress, *, total: int) -> None:
    """Download what is not there yet, of `total` bytes.

    Raises:
        DataError: too little space, or a download that failed.
    """
    needed = sum(hub.bytes_left(file, out / file.name) for file in missing)
    free = shutil.disk_usage(out).free
    if needed and needed + _SPARE_BYTES > free:
        raise DataError(
            f"{out}: {format_bytes(needed)} are to come, and only {format_bytes(free)} are free; "
            "lower --train-shards, or choose another --out"
        )
    done = total - sum(file.size for file in missing)
    progress(done, total)
    for file in missing:
        hub.download(file, out / file.name)
        done += file.size
        progress(done, total)


def _describe(out: Path, wanted: Wanted, origin: Origin, *, allow_shared: bool) -> Manifest:
    """Read everything once, check that it belongs together, and write down what it is.

    Raises:
        DataError: a damaged shard, one of another tokenizer, or a sidecar of other tokens.
    """
    tokenizer = Tokenizer.from_file(out / wanted.tokenizer.name)
    kinds = (wanted.train, wanted.val, wanted.val_bytes)
    dataset = Dataset(out, tokenizer, ShardPaths(*([out / file.name for file in kind] for kind in kinds)), None)
    dataset.check_tokens()
    train_bytes = count_bytes(dataset.train, tokenizer)
    sidecar = dataset.val_token_bytes
    val_bytes = count_bytes(dataset.val, tokenizer) if sidecar is None else count_original_bytes(sidecar)
    shared = shared_documents(dataset.train, dataset.val, tokenizer.bos_id)
    return Manifest(
        format=FORMAT,
        source=f"{origin.repo} on the Hugging Face hub",
        licence=LICENCE,
        vocab_size=tokenizer.vocab_size,
        tokenizer=wanted.tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        train=_side(out, wanted.train, dataset.train, train_bytes, tokenizer.bos_id),
        val=_side(out, wanted.val, dataset.val, val_bytes, tokenizer.bos_id),
        val_byte_shards=_entries(out, wanted.val_bytes),
        origin=origin,
        overlap=Overlap(documents=len(shared), allowed=allow_shared and bool(shared)),
    )


def _side(out: Path, shards: Sequence[HubFile], tokens: TokenStream, num_bytes: int, bos_id: int) -> SideEntry:
    bos = tokens.find(bos_id)
    begun_before = int(not len(bos) or bos[0] > 0)  # text before the first BOS counts as a document
    return SideEntry(
        documents=len(bos) + begun_before, bytes=num_bytes, tokens=len(tokens), shards=_entries(out, shards)
    )


def _entries(out: Path, shards: Sequence[HubFile]) -> tuple[ShardEntry, ...]:
    return tuple(
        ShardEntry(
            name=file.name,
            tokens=len(read_shard(out / file.name)),
            sha256=file.sha256 or files.sha256_file(out / file.name),
        )
        for file in shards
    )
