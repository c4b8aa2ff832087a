"""How fast scores are proved, by strategy, and how long the proofs are beside what is claimed.

    python benchmarks/proving.py ARTIFACT --data DIR [--work DIR] [--out results/proofs.json] [STRATEGY ...]

Each proof is made by `nutshell prove` in a process of its own, and checked by another that has no text. The strategies
that do not learn are proved on the whole text, the others on a sample of it, for they take several times as long. What
is done is kept, in --work as it is made and in --out when it is: the same command goes on. A strategy's proof in --out
stays, whatever artifact it was of, until that strategy is named. The seconds of a proof that was broken off are those
of its last attempt.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclopts import App

from nutshell.files import read_json, sha256_bytes, write_json
from nutshell.machine import num_threads, processor, versions

app = App(help=__doc__)

WHOLE, SAMPLE = ("--all",), ("--docs", "6", "--max-tokens", "40000")
CASES = {
    "sliding": WHOLE,
    "rolling": WHOLE,
    "document_adapters": SAMPLE,
    "sliding,mixture={}": SAMPLE,
    "document_adapters,mixture={}": SAMPLE,
    "chunked_sgd": SAMPLE,
    "sliding,mixture={scope = 'text'}": SAMPLE,
}


@app.default
def main(
    artifact: Path, *strategies: str, data: Path, work: Path = Path("runs/proving"), out: Path | None = None
) -> None:
    """Prove by each strategy, all of them unless some are named."""
    machine = {
        "artifact_sha256": sha256_bytes(artifact.read_bytes()),
        "processor": processor(),
        "threads": num_threads(),
        "versions": versions(),
    }
    rows: dict[str, Any] = read_json(out)["rows"] if out and out.exists() else {}
    work.mkdir(parents=True, exist_ok=True)
    for strategy in strategies or CASES:
        is_done = rows.get(strategy, {}).get("artifact_sha256") == machine["artifact_sha256"]
        if not is_done and (strategies or strategy not in rows):
            rows[strategy] = machine | _prove(artifact, data, strategy, work)
            if out:
                write_json(out, {"rows": rows})
        row = rows[strategy]
        print(
            f"{strategy:<36} {row['tokens']:8,} tokens, {row['overhead']:+.4%} of the claim; encoded at "
            f"{row['encoded_per_second']:6,.0f} tokens/s, decoded at {row['decoded_per_second']:6,.0f}",
            flush=True,
        )


def _prove(artifact: Path, data: Path, strategy: str, work: Path) -> dict[str, Any]:
    proof = work / f"{sha256_bytes(strategy.encode())[:12]}.nsp"
    place = (str(artifact), "--data", str(data), "--strategy", strategy)
    _run("prove", *place, *CASES.get(strategy, WHOLE), "--out", str(proof))
    receipt = read_json(proof.with_suffix(".json"))
    checked = json.loads(_run("prove", str(artifact), "--check", str(proof), "--json"))
    kept = ("documents", "tokens", "bytes", "claimed_bits", "coded_bits", "overhead", "text_sha256", "bitstream_sha256")
    return {
        "whole": "--all" in CASES.get(strategy, WHOLE),
        **{name: receipt[name] for name in kept},
        "bpb": receipt["claimed_bits"] / receipt["bytes"],
        "rows": receipt["layout"]["rows"],
        "encoded_per_second": receipt["tokens"] / receipt["encode_seconds"],
        "decoded_per_second": receipt["tokens"] / receipt["decode_seconds"],
        "checked_seconds": checked["seconds"],
        "seconds": receipt["seconds"],
    }


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "nutshell", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    app()
