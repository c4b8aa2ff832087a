"""The published exports of FineWeb that `data fetch` knows by name: where on the hub each lies, and how.

All are of the same documents of FineWeb's 10B sample: the first 50,000 of a fixed shuffle are the validation text, and
each training shard holds 100 million tokens. A repository holds several: shards in one folder for each tokenizer, the
tokenizers beside. Sources: data/README.md and data/cached_challenge_fineweb.py of parameter-golf; its PR 1394 (SP8192)
and PR 1729 (CaseOps).
"""

import re
from typing import NamedTuple

LICENCE = "FineWeb: ODC-By 1.0"

_SHARD = re.compile(r"_(train|val_bytes|val)_\d+\.bin$")


ROW = 2_048
"""The published evaluators cut the validation stream into rows of so many targets and drop what is left."""


class Export(NamedTuple):
    """A published export: a data set repository on the hub, and two paths in it.

    Attributes:
        val_bytes_per_token: As published: bytes of the validation text for each target of the stream, BOS included, up
            to the last whole row; None where nobody has said. It ties a loss to bits per byte
            (shared/spec/recur45-686.md 1.17, sp8192-loop36.md 1.1 and 5.3).
    """

    repo: str
    folder: str
    tokenizer: str
    val_bytes_per_token: float | None = None


EXPORTS = {
    "sp1024": Export(
        repo="willdepueoai/parameter-golf",
        folder="datasets/datasets/fineweb10B_sp1024",
        tokenizer="datasets/tokenizers/fineweb_1024_bpe.model",
        val_bytes_per_token=2.43593,
    ),
    "sp4096": Export(
        repo="kevclark/parameter-golf",
        folder="datasets/datasets/fineweb10B_sp4096",
        tokenizer="datasets/tokenizers/fineweb_4096_bpe.model",
    ),
    "sp8192": Export(
        repo="kevclark/parameter-golf",
        folder="datasets/datasets/fineweb10B_sp8192",
        tokenizer="datasets/tokenizers/fineweb_8192_bpe.model",
        val_bytes_per_token=3.72663,
    ),
    "caseops": Export(
        repo="romeerp/parameter-golf-caseops-v1",
        folder="datasets/datasets/fineweb10B_sp8192_lossless_caps_caseops_v1_reserved",
        tokenizer="datasets/tokenizers/fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model",
        val_bytes_per_token=3.15715,  # of the original text, by the byte sidecar
    ),
}


def shard_kind(name: str) -> str | None:
    """Say what a file holds by its name: train, val or val_bytes; anything else is no shard."""
    match = _SHARD.search(name)
    return match[1] if match else None


def published_bytes_per_token(folder: str) -> float | None:
    """Give what was published of the export in a folder of its repository, if it is one and somebody said."""
    return next((export.val_bytes_per_token for export in EXPORTS.values() if export.folder == folder), None)
