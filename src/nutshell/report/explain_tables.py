"""An attribution as people read it in a terminal; docs/compression.md says what the columns mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from nutshell.report.layout import new_facts, new_table, safe_text
from nutshell.units import format_bytes


def explain_view(result: Mapping[str, Any]) -> RenderableType:
    """What packing lost by role, block and visit, then each matrix against the bound."""
    facts = {
        "text": f"{result['tokens']:,} tokens, {format_bytes(result['bytes'])}",
        "as trained": f"{result['exact_bpb']:.4f} bpb",
        "packed": f"{result['exact_bpb'] + result['lost_bpb']:.4f} bpb, {_change(result['lost_bpb'])}",
    }
    return Group(
        new_facts(facts),
        "",
        _groups("role", result["roles"]),
        "",
        _groups("block", result["blocks"]),
        "",
        _visits(result["visits"]),
        "",
        _matrices(result["matrices"]),
    )


def _groups(kind: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table(kind, "weights", "bytes", "bpb lost", "+-", "predicted")
    for row in rows:
        table.add_row(
            safe_text(row["group"]),
            f"{row['weights']:,}",
            f"{row['num_bytes']:,}",
            *map(_change, (row["lost_bpb"], row["error_bpb"], row["predicted_bpb"])),
        )
    return table


def _visits(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("visit", "block", "iteration", "bpb lost", "+-", "stream error", "growth")
    for row in rows:
        place = (str(row[name]) for name in ("index", "block", "iteration"))
        read = ("-" if value is None else f"{value:.4g}" for value in (row["stream_error"], row["growth"]))
        table.add_row(*place, _change(row["lost_bpb"]), _change(row["error_bpb"]), *read)
    return table


def _matrices(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("matrix", "weights", "bits a weight", "bound", "gap", "bpb predicted")
    for row in rows:
        bits = (f"{row[name]:.3f}" for name in ("bits_per_weight", "bound_bits", "gap_bits"))
        table.add_row(safe_text(row["name"]), f"{row['weights']:,}", *bits, _change(row["predicted_bpb"]))
    return table


def _change(bpb: float | None) -> str:
    """Write a difference of bits per byte; of a single window there is no standard error."""
    return "-" if bpb is None or bpb != bpb else f"{bpb:+.5f}"
