"""Scores by the number of passes, as a terminal shows them; `docs/scoring-rules.md` says what the columns mean."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from nutshell.printable import show_controls
from nutshell.report.layout import new_facts, new_table


def passes_view(result: Mapping[str, Any]) -> RenderableType:
    """A table for each loop: what each number of passes scores, and what its last pass still changed."""
    schedule = result["schedule"]
    if schedule != result["trained_schedule"]:
        schedule += f", trained as {result['trained_schedule']}"
    facts = {
        "schedule": schedule,
        "tokens": f"{result['tokens']:,}",
        "bytes": f"{result['bytes']:,}",
        "windows": f"{result['windows']}, context = {result['context']}, stride = {result['stride']}",
    }
    parts: list[RenderableType] = [new_facts(facts)]
    for loop in result["loops"]:
        parts += ["", _by_pass(loop, result["trained_schedule"])]
    return Group(*parts)


def _by_pass(loop: Mapping[str, Any], trained_schedule: str) -> Table:
    bounds = list(next((row["change"]["below"] for row in loop["passes"] if row["change"]), {}))
    columns = ["bits/byte", "nats/token", "increment", "delta", "ratio", *(f"below {bound}" for bound in bounds)]
    table = new_table(f"{show_controls(loop['loop'])}, passes", *columns)
    for row in loop["passes"]:
        change = row["change"] or {"increment": None, "delta": None, "ratio": None, "below": {}}
        read = [_number(change[name]) for name in ("increment", "delta", "ratio")]
        shares = ["-" if bound not in change["below"] else f"{change['below'][bound]:.1%}" for bound in bounds]
        trained = " trained" if row["schedule"] == trained_schedule else ""
        table.add_row(f"{row['passes']}{trained}", f"{row['bpb']:.4f}", f"{row['nats_per_token']:.4f}", *read, *shares)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
