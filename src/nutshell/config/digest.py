"""The content hash of a config: the same settings give the same digest, whatever file or order they came from."""

import msgspec

from nutshell.files import sha256_bytes


def digest(config: msgspec.Struct) -> str:
    """Hash the canonical JSON of a config (keys sorted, defaults included); lower-case hex."""
    return sha256_bytes(msgspec.json.encode(config, order="sorted"))
