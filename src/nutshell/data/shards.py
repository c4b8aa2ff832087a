"""Token shards in the field's format, so that published exports work unchanged.

A shard is a header of 256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then the tokens as
little-endian uint16. Every document starts with BOS. Source: llm.c and modded-nanogpt, whose exports the contest uses.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt16

from nutshell import files
from nutshell.errors import DataError

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
MAX_VOCAB_SIZE = 1 << 16

Tokens = UInt16[np.ndarray, " N"]


def write_shard(path: Path, tokens: Tokens) -> None:
    """Write a shard atomically.

    Raises:
        OSError: the folder is missing, not writable or full.
    """
    header = np.zeros(256, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    with files.atomic_writer(path) as file:
        file.write(header.tobytes())
        file.write(tokens.astype("<u2", copy=False).tobytes())


def read_shard(path: Path) -> Tokens:
    """Map a shard's tokens into memory, read-only.

    Raises:
        DataError: the file is missing, is no shard, or does not hold the tokens that its header counts.
    """
    try:
        header = np.fromfile(path, dtype="<i4", count=256)
        num_bytes = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(header) < 256 or header[0] != MAGIC:
        raise DataError(f"{path}: not a token shard (its header does not start with {MAGIC})")
    if header[1] != VERSION:
        raise DataError(f"{path}: shard version {header[1]}, only version {VERSION} is known")
    num_tokens = int(header[2])
    if num_tokens <= 0 or num_bytes != HEADER_BYTES + 2 * num_tokens:
        held = (num_bytes - HEADER_BYTES) / 2
        raise DataError(f"{path}: the header counts {num_tokens:,} tokens, the file holds {held:,.10g}; copy it again")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(num_tokens,))


class TokenStream:
    """Shards one after another as one array that is only read where it is sliced.

    Attributes:
        num_read: Tokens read so far, each as often as it was read.
    """

    def __init__(self, shards: Sequence[Tokens]) -> None:
        self._shards = tuple(shards)
        self._starts = np.cumsum([0, *map(len, self._shards)])
        self.num_read = 0

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, window: slice) -> Tokens:
        """Copy the tokens from `window.start` to `window.stop`."""
        start, stop, step = window.indices(len(self))
        assert step == 1, "a stream is read forwards"
        self.num_read += max(stop - start, 0)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts = []
        for shard, shard_start in zip(self._shards[first:], self._starts[first:], strict=False):
            if shard_start >= stop:
                break
            parts.append(shard[max(start - shard_start, 0) : stop - shard_start])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)

    @property
    def edges(self) -> Int64[np.ndarray, " S+1"]:
        """Where each shard begins, and the end of the last."""
        return self._starts

    def take(self, positions: Int64[np.ndarray, " N"]) -> Tokens:
        """Copy the tokens at positions that rise."""
        self.num_read += len(positions)
        cuts = np.searchsorted(positions, self._starts)
        parts = [
            shard[positions[low:high] - start]
            for shard, start, low, high in zip(self._shards, self._starts, cuts[:-1], cuts[1:], strict=False)
        ]
        return np.concatenate(parts)

    def find(self, token: int) -> Int64[np.ndarray, " N"]:
        """List the positions of a token in rising order; reads every shard."""
        pairs = zip(self.shards(), self._starts, strict=False)
        return np.concatenate([np.flatnonzero(shard == token) + start for shard, start in pairs])

    def shards(self) -> Iterator[Tokens]:
        """Iterate over the shards, each read as a whole."""
        for shard in self._shards:
            self.num_read += len(shard)
            yield shard

    def documents(self, bos_id: int) -> Iterator[Tokens]:
        """Cut the stream at each BOS, which is left out; what precedes the first one counts as a document too."""
        edges = [*self.find(bos_id).tolist(), len(self)]
        if edges[0] > 0:
            yield self[0 : edges[0]]
        for start, stop in itertools.pairwise(edges):
            yield self[start + 1 : stop]
