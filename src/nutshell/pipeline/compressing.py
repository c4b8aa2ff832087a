"""Any file into few bytes and back, with an artifact's model: what a proof does, kept in a file of its own.

A file is cut into chunks of bytes, which are documents that run side by side. Bytes that are no text fall back to
tokens of single bytes, so that every file comes back exactly; one that a model was not made for grows.

    NUTCOMP1 | length of the header (4 bytes) | header (MessagePack) | bits

The header says which artifact is needed, by which strategy it reads, and what its arithmetic gave on a drawn text:
where this is otherwise, the bits would decode to something else, so that nothing is decoded. What comes out is only
written if it has the hash of what went in.
"""

import hashlib
import struct
import zlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from nutshell.artifact.load import Loaded
from nutshell.errors import ArchiveError, LegalityError, RecipeError
from nutshell.files import sha256_bytes, write_bytes
from nutshell.machine import num_threads
from nutshell.pipeline import store
from nutshell.pipeline.coding import compute_with
from nutshell.pipeline.scoring import set_up
from nutshell.pipeline.strategies import StrategyConfig, read_strategy
from nutshell.score.coding import frequency_table
from nutshell.score.layout import Layout, Threads, crc
from nutshell.score.ledger import Strategy
from nutshell.score.predictor import Progress
from nutshell.score.prove import TOKENS_PER_BIT
from nutshell.score.text import decode_text
from nutshell.score.walk import decode, encode

MAGIC = b"NUTCOMP1"
CHUNK_BYTES = 1 << 15
"""More lose less at the beginnings of chunks, and leave fewer to run side by side."""
_ROWS = 64
_PROBED_STEPS = 40
_LENGTH = struct.Struct("<I")
_MOST_HEADER = 1 << 24

_Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Header(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What decompressing needs besides the bits.

    Attributes:
        artifact_sha256: Of the artifact.
        arithmetic_sha256: Of the integer tables that it gave for a drawn text, with these rows and threads.
        strategy: How it reads, as on the command line.
        rows: Chunks side by side.
        threads: Threads of the arithmetic.
        tokens: Targets in all, one end a chunk included.
        crcs: CRC-32 of each chunk's tokens, in the order of the file.
        num_bytes: Of the file.
        sha256: Of the file.
    """

    artifact_sha256: _Hash
    arithmetic_sha256: _Hash
    strategy: str
    rows: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    threads: Threads
    tokens: int
    crcs: tuple[int, ...]
    num_bytes: int
    sha256: _Hash

    @property
    def layout(self) -> Layout:
        """Give the order of computation."""
        count = len(self.crcs)
        return Layout(
            strategy=Strategy(kind="compress", unit="document", context=1, stride=1, rules=()),
            rows=self.rows,
            pieces=(count,),
            threads=self.threads,
            bos_id=0,
            document_ids=tuple(range(count)),
            document_crcs=self.crcs,
            tokens=self.tokens,
        )


def compress_file(
    artifact: Path, source: Path, out: Path, *, strategy: str, chunk_bytes: int = CHUNK_BYTES, progress: Progress
) -> dict[str, Any]:
    """Write a file in few bytes; give what it took.

    Raises:
        RecipeError: there is no such strategy.
        LegalityError: no decoder can follow it.
    """
    config = read_strategy(strategy)
    set_up()
    content, loaded = store.open_artifact(artifact)
    in_order = config.online(loaded, 1).in_order
    data = source.read_bytes()
    chunks = [data[first : first + chunk_bytes] for first in range(0, max(1, len(data)), chunk_bytes)]
    tokens = {place: np.asarray(loaded.tokenizer.encode(chunk)) for place, chunk in enumerate(chunks)}
    rows, threads = 1 if in_order else min(_ROWS, len(chunks)), num_threads()
    header = Header(
        artifact_sha256=hashlib.sha256(content).digest(),
        arithmetic_sha256=_arithmetic(loaded, config, rows, threads),
        strategy=strategy,
        rows=rows,
        threads=threads,
        tokens=sum(len(own) + 1 for own in tokens.values()),
        crcs=tuple(crc(own) for own in tokens.values()),
        num_bytes=len(data),
        sha256=hashlib.sha256(data).digest(),
    )
    layout = msgspec.structs.replace(header.layout, bos_id=loaded.tokenizer.bos_id)
    predictor = config.online(loaded, header.tokens)
    bits = encode(predictor, layout, layout.batches()[0], tokens, _meter(progress, header.tokens))
    head = msgspec.msgpack.encode(header)
    archive = MAGIC + _LENGTH.pack(len(head)) + head + bits
    write_bytes(out, archive + _LENGTH.pack(zlib.crc32(archive)))
    return {
        "bytes": len(data),
        "compressed_bytes": out.stat().st_size,
        "bpb": 8 * out.stat().st_size / len(data) if data else None,
        "tokens": header.tokens,
        "strategy": strategy,
        "artifact_bytes": len(content),
        "artifact_sha256": sha256_bytes(content),
    }


def decompress_file(artifact: Path, source: Path, out: Path, *, progress: Progress) -> dict[str, Any]:
    """Write the file that was compressed; nothing is written unless it is that file.

    Raises:
        ArchiveError: this is no compressed file, or it is damaged, or of another artifact, or the arithmetic here is
            not that of where it was made.
    """
    header, bits = _opened(source)
    set_up()
    content, loaded = store.open_artifact(artifact)
    if hashlib.sha256(content).digest() != header.artifact_sha256:
        raise ArchiveError(f"{source}: compressed with another artifact than {artifact}")
    try:
        config = read_strategy(header.strategy)
        arithmetic = _arithmetic(loaded, config, header.rows, header.threads)
    except (RecipeError, LegalityError) as error:
        raise ArchiveError(f"{source}: {error}") from error
    if arithmetic != header.arithmetic_sha256:
        raise ArchiveError(
            f"{source}: made on a machine or with a version whose arithmetic rounds otherwise than here; "
            "decompress it where it was made"
        )
    layout = msgspec.structs.replace(header.layout, bos_id=loaded.tokenizer.bos_id)
    predictor = config.online(loaded, header.tokens)
    decoded = decode(predictor, layout, layout.batches()[0], bits, _meter(progress, header.tokens))
    if decoded.fault:
        raise ArchiveError(f"{source}: does not decode: {decoded.fault}")
    data = decode_text(loaded.tokenizer, [decoded.tokens[place] for place in range(len(header.crcs))])
    if (len(data), hashlib.sha256(data).digest()) != (header.num_bytes, header.sha256):
        raise ArchiveError(f"{source}: decodes to another file than was compressed; nothing is written")
    write_bytes(out, data)
    return {"bytes": len(data), "compressed_bytes": source.stat().st_size, "sha256": sha256_bytes(data)}


def _opened(source: Path) -> tuple[Header, bytes]:
    archive = source.read_bytes()
    if archive[: len(MAGIC)] != MAGIC:
        raise ArchiveError(f"{source}: not a file that nutshell compressed")
    start = len(MAGIC) + _LENGTH.size
    if len(archive) < start + _LENGTH.size or _LENGTH.unpack(archive[-4:])[0] != zlib.crc32(archive[:-4]):
        raise ArchiveError(f"{source}: damaged: its checksum is not that of its content")
    (length,) = _LENGTH.unpack(archive[len(MAGIC) : start])
    bits = archive[start + length : -4]
    try:
        header = msgspec.msgpack.decode(archive[start : start + length][:_MOST_HEADER], type=Header)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ArchiveError(f"{source}: its header is none ({error})") from error
    if not header.crcs or not 0 < header.tokens <= TOKENS_PER_BIT * 8 * max(4, len(bits)):
        raise ArchiveError(f"{source}: claims {header.tokens} tokens in {len(bits)} bytes, which no file has")
    return header, bits


def _arithmetic(loaded: Loaded, config: StrategyConfig, rows: int, threads: int) -> bytes:
    """Hash the integer tables of a drawn text, so that other arithmetic is noticed before it does harm."""
    compute_with(threads)
    predictor, found = config.online(loaded, _PROBED_STEPS), hashlib.sha256()
    generator = np.random.default_rng(0)
    predictor.begin(rows)
    for _ in range(_PROBED_STEPS):
        found.update(frequency_table(predictor.predict()).tobytes())
        drawn = generator.integers(0, predictor.vocab_size, rows)
        predictor.tell(np.where(drawn == loaded.tokenizer.bos_id, (drawn + 1) % predictor.vocab_size, drawn))
    return found.digest()


def _meter(progress: Progress, total: int) -> Any:
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return advance
