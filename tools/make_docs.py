"""Write the tables of the documents from the code and from stored results; nothing in them is typed.

    python tools/make_docs.py               write them
    python tools/make_docs.py --check       say which are out of date, and exit with status 1 if one is
    python tools/make_docs.py --store RUN   copy a finished run into results/ first, then write them

A table stands between two HTML comments. The techniques are those of the recipe's kind tables, one row a file, in the
words of its docstring. The result is `results/demo.json`: a run's summary.json, and its run.json under `receipt`. The
README's `--vocab` is that of the demo recipe. Strategies of scoring are those of `results/strategies.json`, which
`nutshell score --compare` wrote, their proofs those of `results/proofs.json`, by `benchmarks/proving.py`, their speed
that of `results/scoring.json`, by `benchmarks/scoring.py`; compressed texts are those of `results/compressing.json`.
The pages of `docs/studies/` are the reports of the outcomes in `results/studies/`.
"""

import argparse
import inspect
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from nutshell.config.struct import Kind
from nutshell.files import read_json, write_bytes, write_json
from nutshell.model.config import ModelConfig
from nutshell.recipe import resolve
from nutshell.report.stored import Receipt, Score, Summary
from nutshell.report.strategy_tables import Strategies
from nutshell.study.analysis import analyse
from nutshell.study.plan import read_study
from nutshell.study.report import study_markdown
from nutshell.study.stored import read_stored
from nutshell.units import format_seconds

ROOT = Path(__file__).parents[1]
FIELDS = ("What", "Source", "Shapes", "Init", "Cost", "Sees", "Interacts")
SAME_SCORE = 1e-6
"""Relative: other batches round differently."""
NO_RESULT = "No run is stored in `results/` yet, so there is nothing to show here."


def kinds() -> dict[str, list[type[Kind]]]:
    """List what a recipe may name in the model, by the field that names it; each kind once, where it comes first."""
    found: dict[str, list[type[Kind]]] = {}
    _collect(ModelConfig, "", found)
    return found


def tag(kind: type[Kind]) -> str:
    """Say what a recipe calls a kind."""
    return str(kind.__struct_config__.tag)


def fields(docstring: str) -> dict[str, str]:
    """Take a docstring's seven fields apart; a field goes on in lines that are indented."""
    found = re.findall(r"^(\w+):[ ]+(.*(?:\n[ ]+.*)*)", inspect.cleandoc(docstring), re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found if name in FIELDS}


def techniques_table() -> str:
    """Tabulate every technique, residual rule and MLP: where it acts, what it does, its initial state and its cost."""
    rows = []
    for seam, members in kinds().items():
        for module in dict.fromkeys(kind.__module__ for kind in members):
            names = [tag(kind) for kind in members if kind.__module__ == module]
            said = fields(sys.modules[module].__doc__ or "")
            links = ", ".join(f"[`{name}`]({name}.md)" for name in names)
            rows.append((f"`{seam}`", links, said["What"], said["Init"], said["Cost"]))
    return _table(("Seam", "Kind", "What", "Init", "Cost"), rows)


def results_table(path: Path) -> str:
    """Tabulate a stored run, or say that there is none."""
    if not path.exists():
        return NO_RESULT
    stored = read_json(path)
    run, score, receipt = (
        msgspec.convert(part, type_)
        for part, type_ in ((stored, Summary), (stored, Score), (stored["receipt"], Receipt))
    )
    assert run.artifact_bytes is not None
    assert run.budget_bytes is not None
    compared = [
        (name, f"{bpb:.4f} bits per byte: nutshell takes {1 - score.bpb / bpb:.1%} fewer")
        for name, bpb in sorted(run.compressors.items(), key=lambda entry: entry[1])
    ]
    proof = "none"
    if run.proof:
        proof = (
            f"{run.proof.tokens:,} tokens in {run.proof.documents} documents "
            f"{'decoded back to the exact bytes' if run.proof.ok else 'did not prove'}; "
            f"{run.proof.coded_bits:,.0f} bits coded, {run.proof.claimed_bits:,.0f} claimed"
        )
    strategy = ", ".join(f"{key} {score.strategy[key]}" for key in ("context", "stride"))
    return _table(
        ("", f"`{run.command}`"),
        [
            ("Score", f"**{score.bpb:.4f} bits per byte** ({score.strategy['kind']} windows, {strategy})"),
            (
                "over",
                f"{score.nats_per_token:.4f} nats/token; {score.tokens:,} tokens, {score.bytes:,} bytes, "
                f"{score.documents} documents, {score.coverage:.0%} of the validation text",
            ),
            *compared,
            ("Artifact", f"{run.artifact_bytes:,} of {run.budget_bytes:,} bytes, tokenizer and recipe included"),
            ("Proof", proof),
            (
                "Training",
                f"{format_seconds(run.seconds['train'])}, {receipt.steps:,} steps, {receipt.tokens:,} tokens, "
                f"{receipt.num_params:,} parameters, seed {receipt.seed}",
            ),
            ("All stages", format_seconds(sum(run.seconds.values()))),
            ("Machine", f"{receipt.processor}, {receipt.threads} threads, torch {receipt.versions['torch']}"),
        ],
    )


def strategies_table(path: Path, proofs: Path) -> str:
    """Tabulate strategies of scoring beside one another, gains over the first of them, with the proofs of the same."""
    if not path.exists():
        return NO_RESULT
    stored = read_json(path)
    found = msgspec.convert(stored, Strategies)
    proved = read_json(proofs)["rows"] if proofs.exists() else {}
    rows_proved = {
        strategy: row for strategy, row in proved.items() if row["artifact_sha256"] == stored["artifact_sha256"]
    }
    header = ("Strategy", "Bits per byte", "Saved", "Scoring", "Tokens/s", "Proof")
    rows = [
        (
            f"`{row.strategy}`",
            f"{row.bpb:.5f}",
            f"{row.gain:.2%}" if place else "-",
            format_seconds(row.scoring_seconds),
            f"{row.tokens_per_second:,.0f}",
            _proof_of(row.bpb, rows_proved.get(row.strategy)),
        )
        for place, row in enumerate(found.rows)
    ]
    return (
        f"{found.documents} documents, {found.tokens:,} tokens, {found.bytes:,} bytes; {found.processor}, "
        f"{found.threads} threads.\n\n{_table(header, rows)}"
    )


def _proof_of(bpb: float, proof: Mapping[str, Any] | None) -> str:
    """Say how far the bits of a whole text's proof are from what was claimed for it, if this is the claim."""
    if proof is None or not proof["whole"] or abs(proof["bpb"] / bpb - 1) > SAME_SCORE:
        return "not proved"
    return f"{proof['overhead']:+.3%}"


def proofs_table(path: Path) -> str:
    """Tabulate how fast scores are proved, and how long the proofs are."""
    if not path.exists():
        return NO_RESULT
    stored = read_json(path)["rows"]
    header = ("Strategy", "Artifact", "Tokens", "Bits beyond the claim", "Encoded", "Decoded")
    rows = [
        (
            f"`{strategy}`",
            f"`{row['artifact_sha256'][:8]}`",
            f"{row['tokens']:,}{'' if row['whole'] else ' (a sample)'}",
            f"{row['overhead']:+.4%}",
            *(f"{row[name]:,.0f} tokens/s" for name in ("encoded_per_second", "decoded_per_second")),
        )
        for strategy, row in stored.items()
    ]
    machines = dict.fromkeys(f"{row['processor']}, {row['threads']} threads" for row in stored.values())
    return f"{'; '.join(machines)}.\n\n{_table(header, rows)}"


def compressing_table(path: Path) -> str:
    """Tabulate what an artifact makes of texts of several kinds, beside general compressors."""
    if not path.exists():
        return NO_RESULT
    stored = read_json(path)
    names = list(stored["rows"][0]["bpb"])
    rows = [
        (row["text"], f"{row['bytes']:,}", *(f"{row['bpb'][name]:.3f}" for name in names)) for row in stored["rows"]
    ]
    return f"Bits per byte; the artifact has {stored['artifact_bytes']:,} bytes.\n\n" + _table(
        ("Text", "Bytes", *names), rows
    )


def speed_table(path: Path) -> str:
    """Tabulate how fast strategies score, beside plain loops."""
    if not path.exists():
        return NO_RESULT
    stored = read_json(path)
    header = ("Strategy", "Targets/s", "Plain loop", "Ratio", "Difference, nats a token")
    rows = [
        (
            row["strategy"],
            f"{row['targets_per_second']:,.0f}",
            f"{row['plain_targets_per_second']:,.0f}",
            f"{row['speedup']:.2f}",
            f"{row['difference']:.1e}",
        )
        for row in stored["rows"]
    ]
    text = f"{stored['documents']} documents, {stored['targets']:,} targets"
    machine = f"{stored['processor']}, {stored['threads']} threads, medians of {stored['repeats']}"
    roofline = f"Matrix products alone would read {stored['roofline_tokens_per_second']:,.0f} tokens/s"
    return f"{text}; {machine}. {roofline}.\n\n{_table(header, rows)}"


def study_pages(root: Path) -> dict[Path, str]:
    """Make the report of each study whose outcomes are stored."""
    pages = {}
    for stored in sorted((root / "results" / "studies").glob("*.json")):
        file, found = root / "studies" / f"{stored.stem}.toml", read_stored(stored)
        plan = read_study(file, data_digest=found.data_digest)
        analysis = analyse(plan, found.outcomes, failed=found.failures())
        command = f"nutshell study report {file.relative_to(root)} --stored {stored.relative_to(root)}"
        pages[root / "docs" / "studies" / f"{stored.stem}.md"] = study_markdown(plan, analysis, command=command)
    return pages


def store(run_dir: Path, path: Path) -> None:
    """Copy what a finished run says of itself into one file.

    Raises:
        SystemExit: the run was an exploration, which is nobody's result.
    """
    summary = read_json(run_dir / "summary.json")
    if summary["overrides"]:
        raise SystemExit(f"{run_dir}: was run with --set {summary['overrides']}; only a recipe as it is can be stored")
    write_json(path, {**summary, "receipt": read_json(run_dir / "run.json")})


def filled(text: str, name: str, table: str) -> str:
    """Put a table between the two comments that bear its name."""
    begin, end = f"<!-- {name}: made by tools/make_docs.py -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    assert found and closed, f"no place for the table '{name}': {begin} ... {end}"  # noqa: PT018  # one fault
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def _collect(config: type[msgspec.Struct], path: str, found: dict[str, list[type[Kind]]]) -> None:
    """Add the kinds that a config's fields name, then those that the fields' own configs name."""
    hints = typing.get_type_hints(config)
    structs = {field: _structs(hints[field]) for field in config.__struct_fields__}
    for field, members in structs.items():
        known = {kind for listed in found.values() for kind in listed}
        if new := [member for member in members if issubclass(member, Kind) and member not in known]:
            found[f"{path}{field}"] = new
    for field, members in structs.items():
        for member in members:
            _collect(member, f"{path}{field}.", found)


def _structs(hint: Any) -> list[type[msgspec.Struct]]:
    """Find the config structs in a type such as `tuple[A | B, ...]`."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [struct for part in typing.get_args(hint) for struct in _structs(part)]


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = tuple(header)
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def current(root: Path) -> Mapping[Path, str]:
    """Make every document that has something made in it, as it should be now."""
    readme, techniques = root / "README.md", root / "docs" / "techniques" / "README.md"
    scoring, compressing, results = (
        *(root / "docs" / name for name in ("scoring-rules.md", "compressing.md")),
        root / "results",
    )
    vocab_size = resolve("demo").recipe.model.vocab_size
    text = re.sub(r"--vocab \d+", f"--vocab {vocab_size}", readme.read_text(encoding="utf-8"))
    rules = scoring.read_text(encoding="utf-8")
    for name, table in (
        ("strategies", strategies_table(results / "strategies.json", results / "proofs.json")),
        ("speed", speed_table(results / "scoring.json")),
        ("proofs", proofs_table(results / "proofs.json")),
    ):
        rules = filled(rules, name, table)
    return study_pages(root) | {
        readme: filled(text, "results", results_table(results / "demo.json")),
        scoring: rules,
        compressing: filled(
            compressing.read_text(encoding="utf-8"), "compressing", compressing_table(results / "compressing.json")
        ),
        techniques: filled(techniques.read_text(encoding="utf-8"), "techniques", techniques_table()),
    }


def main() -> None:
    """Write or check the documents."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is out of date")
    parser.add_argument("--store", type=Path, metavar="RUN", help="copy this run into results/demo.json first")
    arguments = parser.parse_args()
    if arguments.store:
        store(arguments.store, ROOT / "results" / "demo.json")
    stale = {path: text for path, text in current(ROOT).items() if _written(path) != text}
    for path, text in stale.items():
        if not arguments.check:
            write_bytes(path, text.encode())
        print(f"{path.relative_to(ROOT)}: {'out of date' if arguments.check else 'written'}")
    sys.exit(1 if stale and arguments.check else 0)


def _written(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    main()
