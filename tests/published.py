"""A small export as others publish theirs: token shards in a folder, the tokenizer in another one."""

import struct

from nutshell.data.exports import EXPORTS
from nutshell.data.tokenizer import Tokenizer
from text_samples import chapters, small_tokenizer


def shard_bytes(tokens) -> bytes:
    """The shard format, written by other means than the package's."""
    return struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + struct.pack(f"<{len(tokens)}H", *tokens)


def stream(documents: list[bytes], tokenizer: Tokenizer) -> list[int]:
    return [token for document in documents for token in (tokenizer.bos_id, *tokenizer.encode(document).tolist())]


def small_export(
    name: str,
    *,
    tokenizer: Tokenizer | None = None,
    train: list[bytes] | None = None,
    val: list[bytes] | None = None,
    train_shards: int = 3,
) -> dict[str, bytes]:
    """Give the files of an export's repository; the training text is cut into shards anywhere."""
    export = EXPORTS[name]
    tokenizer = tokenizer or small_tokenizer()
    train_tokens = stream(chapters()[3:12] if train is None else train, tokenizer)
    val_tokens = stream(chapters()[:3] if val is None else val, tokenizer)
    size = -(-len(train_tokens) // train_shards)
    files = {
        f"{export.folder}/fineweb_train_{index:06d}.bin": shard_bytes(train_tokens[index * size : (index + 1) * size])
        for index in range(train_shards)
    }
    files[f"{export.folder}/fineweb_val_000000.bin"] = shard_bytes(val_tokens)
    if name == "caseops":
        files[f"{export.folder}/fineweb_val_bytes_000000.bin"] = shard_bytes(original_bytes(val_tokens, tokenizer))
    files[export.tokenizer] = tokenizer.model_bytes
    files["datasets/manifest.json"] = b"{}"
    files["README.md"] = b"other things lie here too"
    return files


def original_bytes(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """Bytes that no decoding would give: every tenth token stands for two, each other one for one, BOS for none."""
    return [0 if token == tokenizer.bos_id else 1 + (index % 10 == 0) for index, token in enumerate(tokens)]
