"""What must hold of a data set before a score on it means anything, each thing checked by reading all of it.

`Dataset.open` and `Dataset.verify` stop at the first fault that a training or a score must not meet. Here every check
runs and says what it saw, so that a sceptic can read what was looked at and what was not.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from nutshell import files
from nutshell.data.dataset import MANIFEST_NAME, Dataset, count_bytes, count_original_bytes
from nutshell.data.overlap import Shared, shared_documents
from nutshell.data.shards import Tokens, TokenStream
from nutshell.data.split import SIDES
from nutshell.errors import DataError

Verdict = Literal["passed", "failed", "cannot tell"]
Progress = Callable[[int, int], None]

# Documents of the training text that are encoded again: encoding takes a hundred times as long as decoding.
_REENCODED = 1_000
_SPACES = re.compile(r"\s+")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, how it came out, and what was seen."""

    name: str
    verdict: Verdict
    evidence: str


def verify(dataset: Dataset, *, progress: Progress = lambda *_: None) -> list[Check]:
    """Run every check on a data set that could be opened: its shards' headers, lengths and tokenizer are read already.

    Args:
        dataset: an open data set.
        progress: told of the checks that are done, and of how many.
    """
    checks = (_hashes, _tokens, _counts, _bytes, _round_trip, _disjoint, _disjoint_normalised)
    found = [
        Check(
            name="shard headers",
            verdict="passed",
            evidence=f"they count {len(dataset.train):,} tokens for training, {len(dataset.val):,} for validation",
        )
    ]
    for done, check in enumerate(checks):
        progress(done, len(checks))
        found.append(check(dataset))
    progress(len(checks), len(checks))
    return found


def _hashes(dataset: Dataset) -> Check:
    name = "hashes"
    if dataset.manifest is None:
        return Check(name=name, verdict="cannot tell", evidence=f"no {MANIFEST_NAME} says what the shards should be")
    shards = [shard for group in dataset.manifest.shards for shard in group]
    altered = [shard.name for shard in shards if files.sha256_file(dataset.folder / shard.name) != shard.sha256]
    if altered:
        return Check(name=name, verdict="failed", evidence=f"{len(altered)} of {len(shards)} shards: {altered[0]}")
    return Check(name=name, verdict="passed", evidence=f"SHA-256 of {len(shards)} shards and of the tokenizer")


def _tokens(dataset: Dataset) -> Check:
    try:
        dataset.check_tokens()
    except DataError as error:
        return Check(name="tokens", verdict="failed", evidence=str(error))
    return Check(name="tokens", verdict="passed", evidence=f"all below {dataset.tokenizer.vocab_size:,}")


def _counts(dataset: Dataset) -> Check:
    """Compare documents with those that were read."""
    if not dataset.val_has_boundaries:
        return Check(name="documents", verdict="failed", evidence="no BOS in the validation text says where one begins")
    counted = {side: sum(1 for _ in _documents(dataset, side)) for side in SIDES}
    return _compared("documents", counted, dataset)


def _bytes(dataset: Dataset) -> Check:
    """Compare the bytes that tokens stand for with those of the text, which were counted before there were tokens."""
    sidecar = dataset.val_token_bytes
    counted = {
        "train": count_bytes(dataset.train, dataset.tokenizer),
        "val": count_bytes(dataset.val, dataset.tokenizer) if sidecar is None else count_original_bytes(sidecar),
    }
    return _compared("bytes", counted, dataset)


def _compared(what: str, counted: dict[str, int], dataset: Dataset) -> Check:
    """Compare what both sides hold with what the manifest says of them."""
    evidence = f"{counted['train']:,} for training, {counted['val']:,} for validation"
    if dataset.manifest is None:
        evidence += f"; no {MANIFEST_NAME} says how many the text had"
        return Check(name=what, verdict="cannot tell", evidence=evidence)
    expected = {side: getattr(getattr(dataset.manifest, side), what) for side in SIDES}
    if counted == expected:
        return Check(name=what, verdict="passed", evidence=evidence)
    evidence += f"; the text had {expected['train']:,} and {expected['val']:,}"
    return Check(name=what, verdict="failed", evidence=evidence)


def _round_trip(dataset: Dataset) -> Check:
    """Decode, encode and decode again: the text must come back, whatever the tokens."""
    tokenizer = dataset.tokenizer
    tried = lost = other = 0
    step = max(1, sum(1 for _ in _documents(dataset, "train")) // _REENCODED)
    for side, every in (("val", 1), ("train", step)):
        for index, tokens in enumerate(_documents(dataset, side)):
            if index % every:
                continue
            text = tokenizer.decode(tokens)
            again = tokenizer.encode(text)
            tried += 1
            lost += tokenizer.decode(again) != text
            other += again.tolist() != tokens.tolist()
    evidence = f"{tried:,} documents, all for validation among them: {lost} lost bytes, {other} have other tokens now"
    return Check(name="tokenizer round trip", verdict="failed" if lost else "passed", evidence=evidence)


def _disjoint(dataset: Dataset) -> Check:
    shared = shared_documents(dataset.train, dataset.val, dataset.tokenizer.bos_id)
    return _of_shared("split", "token by token", shared, dataset)


def _disjoint_normalised(dataset: Dataset) -> Check:
    """Compare documents in lower case, in one form of each character, with one space where there is any."""
    own: dict[bytes, int] = {}
    for index, tokens in enumerate(_documents(dataset, "val")):
        if digest := _digest(dataset.tokenizer.decode(tokens)):
            own.setdefault(digest, index)
    shared = {}
    for index, tokens in enumerate(_documents(dataset, "train")):
        match = own.get(_digest(dataset.tokenizer.decode(tokens)))
        if match is not None:
            shared.setdefault(match, index)
    pairs = [Shared(val, train) for val, train in sorted(shared.items())]
    return _of_shared("split, normalised", "whatever case, spaces and forms of characters", pairs, dataset)


def _of_shared(name: str, how: str, shared: list[Shared], dataset: Dataset) -> Check:
    count = sum(1 for _ in _documents(dataset, "val"))
    if not shared:
        evidence = f"none of {count:,} validation documents is a training document, {how}; passages are not compared"
        return Check(name=name, verdict="passed", evidence=evidence)
    first = shared[0]
    evidence = (
        f"{len(shared):,} of {count:,} validation documents are training documents, {how}: "
        f"number {first.val} is number {first.train} there"
    )
    return Check(name=name, verdict="failed", evidence=evidence)


def _documents(dataset: Dataset, side: str) -> Iterator[Tokens]:
    stream: TokenStream = getattr(dataset, side)
    return stream.documents(dataset.tokenizer.bos_id)


def _digest(text: bytes) -> bytes:
    """Give what two texts share that differ in case, spaces or forms of characters; nothing for one without letters."""
    plain = unicodedata.normalize("NFKC", text.decode("utf-8", "surrogateescape")).casefold()
    plain = _SPACES.sub(" ", plain).strip()
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape")).digest() if plain else b""
