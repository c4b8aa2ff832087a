"""Results as people read them in a terminal: each view takes what the verb prints with `--json` and lays it out.

Like the stored files (`stored.py`), a value may hold more than is shown.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from nutshell.printable import escape_controls, show_controls
from nutshell.report.layout import new_facts, new_table, safe_text, share_of
from nutshell.report.stored import Ledger, NextPercent, Proof, Score, Summary
from nutshell.units import format_seconds, nats_from_bits

# Lays out what a verb prints with `--json`.
View = Callable[[Any], RenderableType]


def summary_view(summary: Mapping[str, Any], *, report: Path) -> RenderableType:
    """The end of a run: the answer first, the path of the report last."""
    run = msgspec.convert(summary, Summary)
    lines = [_answer(run), _bytes_line(run), _proof_line(run.proof)]
    if run.seconds:
        total = format_seconds(sum(run.seconds.values()))
        trained = f"{format_seconds(run.seconds['train'])} of training, " if "train" in run.seconds else ""
        lines.append(Text(f"{trained}{total} in all", "label"))
    if run.overrides:
        settings = ", ".join(f"{key} = {value}" for key, value in run.overrides.items())
        lines.append(safe_text(f"overrides: {settings} - exploration, not a recipe's result", "unsure"))
    panel = Panel(
        Group(*lines), title=safe_text(run.name), title_align="left", box=ROUNDED, padding=(0, 1), expand=False
    )
    # Left whole however long, so that it can be copied.
    return Group(panel, Text(f"report: {show_controls(str(report))}", no_wrap=True, overflow="ignore"))


def score_view(score: Mapping[str, Any]) -> RenderableType:
    """A score with everything it must be quoted with, then what it is not: other definitions, and compressors."""
    scored = msgspec.convert(score, Score)
    compressors: Mapping[str, float] = score.get("compressors", {})
    facts = new_facts(
        {
            "bits per byte": f"{scored.bpb:.6f}",
            "nats per byte": f"{nats_from_bits(scored.bpb):.6f}",
            "nats per token": f"{scored.nats_per_token:.6f}",
            "tokens": f"{scored.tokens:,}",
            "bytes": f"{scored.bytes:,}",
            "documents": f"{scored.documents:,}",
            "coverage": "every byte" if scored.coverage == 1 else f"{scored.coverage:.4%} of the bytes",
            "bytes per token": _bytes_per_token(scored),
            "strategy": ", ".join(f"{key} = {value}" for key, value in scored.made_how.items()),
        }
        | _speed(scored)
    )
    parts: list[RenderableType] = [facts]
    if scored.schedule != scored.trained_schedule:
        says = f"run as '{scored.schedule}', trained as '{scored.trained_schedule}': not the artifact's own score"
        parts.insert(0, safe_text(says, "unsure"))
    if scored.otherwise:
        table = new_table("the same artifact by other definitions, not this score", "bits/byte")
        for definition, bpb in scored.otherwise.items():
            table.add_row(definition, f"{bpb:.4f}")
        parts += ["", table]
    if compressors:
        table = new_table("compressor", "bits/byte", "this score")
        for name, bpb in sorted(compressors.items(), key=lambda entry: entry[1]):
            table.add_row(safe_text(name), f"{bpb:.4f}", _gap(1 - scored.bpb / bpb))
        parts += ["", table]
    return Group(*parts)


def _bytes_per_token(scored: Score) -> str:
    own = f"{scored.bytes_per_token:.5f}"
    if (others := scored.published_bytes_per_token) is None or others.found is None:
        return own
    return f"{own}; by the published rule {others.found:.5f}, published {others.published:.5f}"


def _speed(scored: Score) -> dict[str, str]:
    facts = {}
    if scored.tokens_per_second is not None:
        facts["speed"] = f"{scored.tokens_per_second:,.0f} tokens/s"
    if budget := scored.budget:
        forecast = f"the whole text looked to take {format_seconds(budget.forecast_seconds)}"
        facts["budget"] = f"{format_seconds(budget.seconds)}, {'kept' if budget.kept else 'exceeded'}; {forecast}"
    return facts


def ledger_view(ledger: Mapping[str, Any]) -> RenderableType:
    """Where the bytes of an artifact went, largest section first."""
    packed = msgspec.convert(ledger, Ledger)
    table = new_table("section", "bytes", "share", "bits/value", "kind")
    for section in sorted(packed.sections, key=lambda section: -section.bytes):
        share = share_of(section.bytes, packed.artifact_bytes)
        bits = "-" if section.bits_per_value is None else f"{section.bits_per_value:.2f}"
        table.add_row(safe_text(section.name), f"{section.bytes:,}", share, bits, safe_text(section.kind))
    facts = {"artifact": f"{packed.artifact_bytes:,} bytes"}
    if packed.budget_bytes is not None:
        share = share_of(packed.artifact_bytes, packed.budget_bytes)
        facts["budget"] = f"{packed.budget_bytes:,} bytes, {share} used"
    if packed.margin_bytes:
        facts["margin"] = f"{packed.margin_bytes:,} bytes of the budget"
    if packed.unused_bytes is not None:
        facts["left"] = f"{packed.unused_bytes:,} bytes"
    if packed.bytes_by_kind:
        facts["bytes by kind"] = ", ".join(
            f"{kind} {num_bytes:,} ({share_of(num_bytes, packed.artifact_bytes)})"
            for kind, num_bytes in packed.bytes_by_kind.items()
        )
    if packed.precision:
        facts["bits by role"] = ", ".join(f"{role} {bits:.4g}" for role, bits in packed.precision.items())
    if packed.next_percent is not None:
        facts["1 % more bytes"] = _next_percent(packed.next_percent)
    roles = ["", _role_table(packed)] if packed.roles else []
    return Group(new_facts(facts), *roles, "", table)


def proof_view(receipt: Mapping[str, Any]) -> RenderableType:
    """What was decoded back, and how its length compares with the claim."""
    proof = msgspec.convert(receipt, Proof)
    lines = [_proof_line(proof)]
    if not proof.ok:
        lines.append(safe_text(str(receipt.get("reason", "")), "bad"))
    return Group(*lines)


def compressed_view(done: Mapping[str, Any]) -> RenderableType:
    """How many bytes became how many."""
    line = Text(f"{done['bytes']:,} bytes in {done['compressed_bytes']:,}")
    if done["bytes"]:
        line.append(f": {8 * done['compressed_bytes'] / done['bytes']:.4f} bits per byte")
    if "artifact_bytes" in done:
        line.append(f"; the artifact of {done['artifact_bytes']:,} bytes is needed to read it")
    return line


def sample_view(sample: Mapping[str, Any]) -> RenderableType:
    """What a model wrote, line by line."""
    return Text(escape_controls(sample["text"]))


def manifest_view(manifest: Mapping[str, Any]) -> RenderableType:
    """The two sides of a data set."""
    table = new_table("side", "documents", "bytes", "tokens", "bytes/token")
    for side in ("train", "val"):
        counts = manifest[side]
        ratio = f"{counts['bytes'] / counts['tokens']:.4f}"
        table.add_row(side, f"{counts['documents']:,}", f"{counts['bytes']:,}", f"{counts['tokens']:,}", ratio)
    return table


def checks_view(found: Mapping[str, Any]) -> RenderableType:
    """What was checked, and what was seen."""
    styles = {"passed": "good", "failed": "bad"}
    table = new_table("check", "verdict", "seen", words=["verdict", "seen"])
    for check in found["checks"]:
        verdict = safe_text(check["verdict"], styles.get(check["verdict"], "unsure"))
        table.add_row(check["name"], verdict, safe_text(check["evidence"]))
    return table


def _role_table(packed: Ledger) -> RenderableType:
    """What every role got, and what it cost."""
    table = new_table(
        "role", "stored as", "weights", "bits/weight", "bytes", "share", "step", "error", "nats/token",
        words=["stored as"],
    )  # fmt: skip
    for role in packed.roles:
        table.add_row(
            safe_text(role.role),
            safe_text(role.method),
            f"{role.num_weights:,}",
            f"{role.bits_per_weight:.3f}",
            f"{role.num_bytes:,}",
            share_of(role.num_bytes, packed.artifact_bytes),
            _step_range(role.steps),
            f"{role.relative_error:.2e}",
            "-" if role.nats_per_token is None else f"{role.nats_per_token:.2e}",
        )
    return table


def _step_range(steps: tuple[float, float] | None) -> str:
    if steps is None:
        return "-"
    low, high = (f"{step:.2g}" for step in steps)
    return low if low == high else f"{low} to {high}"


def _next_percent(following: NextPercent) -> str:
    """What one per cent more would buy; the loss where it is known, else the error."""
    nats = following.nats_per_token
    bought = f"{following.relative_error:.2e} of error" if nats is None else f"{nats:.2e} nats a token"
    return f"{following.num_bytes:,} bytes would make weights {following.bits_per_weight:.3f} bits finer, for {bought}"


def _answer(run: Summary) -> Text:
    if run.bpb is None:
        return Text("not scored", "unsure")
    line = Text.assemble((f"{run.bpb:.4f} bits per byte", "answer"))
    if run.saving_frac is not None and run.best_compressor is not None:
        best = f"{show_controls(run.best_compressor)} ({run.compressors[run.best_compressor]:.4f})"
        line.append(f", {_gap(run.saving_frac)} than {best}")
    return line


def _bytes_line(run: Summary) -> Text:
    if run.artifact_bytes is None:
        return Text("not packed", "unsure")
    budget = f" of {run.budget_bytes:,} ({share_of(run.artifact_bytes, run.budget_bytes)})" if run.budget_bytes else ""
    return Text.assemble((f"{run.artifact_bytes:,} bytes", "answer"), budget)


def _proof_line(proof: Proof | None) -> Text:
    if proof is None:
        return Text("not proved: nothing was decoded back", "unsure")
    verdict = ("proved", "good") if proof.ok else ("proof failed", "bad")
    sample = f": {proof.tokens:,} tokens in {proof.documents:,} documents, "
    return Text.assemble(verdict, f"{sample}{proof.coded_bits:,.0f} bits ({100 * proof.excess_frac:+.3f} % of claim)")


def _gap(saving_frac: float) -> str:
    return f"{100 * abs(saving_frac):.1f} % {'fewer' if saving_frac >= 0 else 'more'}"
