"""An artifact as a compressor, beside general ones, on texts of several kinds.

    pip install pyppmd
    python benchmarks/compressing.py ARTIFACT --data DIR [--size 200000] [--work DIR] [--out results/compressing.json]

The texts are the beginning of the data set's validation text, some of Python's own library, this repository's documents
and stored results, and the interpreter's machine code. Each is compressed by `nutshell compress`, decompressed in
another process and compared. The others run at their strongest standard settings; PPMd is variant H, order 8, with
256 MB. What is done is kept in --out: the same command goes on.
"""

import bz2
import inspect
import json
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pyppmd
from cyclopts import App

from nutshell.data.dataset import Dataset
from nutshell.errors import NutshellError
from nutshell.files import read_json, sha256_bytes, write_bytes, write_json
from nutshell.machine import num_threads, processor, versions
from nutshell.score.compressors import compress_all

app = App(help=__doc__)
ROOT = Path(__file__).parents[1]


@app.default
def main(
    artifact: Path, *, data: Path, size: int = 200_000, work: Path = Path("runs/compressing"), out: Path | None = None
) -> None:
    """Compress each text in every way."""
    work.mkdir(parents=True, exist_ok=True)
    found = artifact.read_bytes()
    report = {"processor": processor(), "threads": num_threads(), "versions": versions()}
    report |= {"artifact_bytes": len(found), "artifact_sha256": sha256_bytes(found)}
    before = read_json(out) if out and out.exists() else {}
    rows = before["rows"] if before.get("artifact_sha256") == report["artifact_sha256"] else []
    for name, content in texts(data).items():
        if sha256_bytes(content[:size]) in [row["sha256"] for row in rows]:
            continue
        rows.append({"text": name, **_compared(artifact, content[:size], work)})
        said = ", ".join(f"{how} {bpb:.3f}" for how, bpb in rows[-1]["bpb"].items())
        print(f"{name} ({rows[-1]['bytes']:,} bytes): {said}", flush=True)
        if out:
            write_json(out, report | {"rows": rows})


def texts(data: Path) -> dict[str, bytes]:
    """Give the texts by kind."""
    dataset = Dataset.open(data)
    held_out = b"".join(b"".join(dataset.tokenizer.pieces(tokens)) for tokens in dataset.val_documents())
    modules = [Path(inspect.getfile(module)) for module in (inspect, typing, json, subprocess)]
    return {
        "held-out text": held_out,
        "Python": b"".join(path.read_bytes() for path in modules),
        "Markdown": b"".join(path.read_bytes() for path in sorted((ROOT / "docs").glob("*.md"))),
        "JSON": b"".join(path.read_bytes() for path in sorted((ROOT / "results").glob("*.json"))),
        "machine code": Path(sys.executable).resolve().read_bytes(),
    }


def _compared(artifact: Path, content: bytes, work: Path) -> dict[str, Any]:
    source, packed, back = (work / name for name in ("text", "text.nz", "text.back"))
    write_bytes(source, content)
    done = json.loads(_run("compress", str(artifact), str(source), str(packed), "--json"))
    _run("decompress", str(artifact), str(packed), str(back), "--json")
    if back.read_bytes() != content:
        raise NutshellError("what came back is another file")
    others = compress_all(content) | {
        "bzip2 -9": 8 * len(bz2.compress(content, 9)) / len(content),
        "PPMd": 8 * len(pyppmd.compress(content, max_order=8, mem_size=256 << 20, variant="H")) / len(content),
    }
    return {"bytes": len(content), "sha256": sha256_bytes(content), "bpb": {"nutshell": done["bpb"], **others}}


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "nutshell", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    app()
