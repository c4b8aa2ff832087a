"""The bundled corpus: 15 works from Project Gutenberg and 249 State of the Union messages, inside the package.

Fixed bytes give fixed scores. `assets/corpus/README.md` says where the texts are from; `tools/build_corpus.py` makes
the files from the two published packages.
"""

import hashlib
import io
import lzma
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import msgspec

from nutshell.data.documents import parse_lines
from nutshell.errors import DataError


class CorpusFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the corpus's manifest; sizes in bytes, of the file and of the text in it."""

    name: str
    package: str
    licence: str
    sha256: str
    compressed_bytes: int
    documents: int
    text_bytes: int


class CorpusManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the corpus holds."""

    files: tuple[CorpusFile, ...]


class BundledCorpus:
    """The documents of the bundled corpus, in the order of the manifest."""

    description = "bundled corpus: Project Gutenberg and State of the Union"
    val_frac = 0.045
    """Holds out 34 documents of both kinds, 0.98 MB, under the default split seed."""

    def __init__(self) -> None:
        self._folder = resources.files("nutshell") / "assets" / "corpus"
        self.manifest = msgspec.json.decode((self._folder / "manifest.json").read_bytes(), type=CorpusManifest)

    @property
    def licence(self) -> str:
        """Say under which terms the text may be used."""
        return "; ".join(dict.fromkeys(f"{file.package}: {file.licence}" for file in self.manifest.files))

    def __iter__(self) -> Iterator[bytes]:
        """Read the documents.

        Raises:
            DataError: a file of the installed package is not the one that was published.
        """
        for row in self.manifest.files:
            content = (self._folder / row.name).read_bytes()
            if hashlib.sha256(content).hexdigest() != row.sha256:
                raise DataError(f"{self._folder / row.name}: not the published corpus; install nutshell again")
            yield from parse_lines(io.BytesIO(lzma.decompress(content)), Path(row.name))
