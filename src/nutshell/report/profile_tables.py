"""A profile as people read it in a terminal; `docs/speed.md` says what the columns mean."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from nutshell.report.layout import new_table, safe_text, share_of

_SHOWN_OPERATORS = 12


def profile_view(profile: Mapping[str, Any]) -> RenderableType:
    """Stages, groups and the longest operators of each phase."""
    parts: list[RenderableType] = []
    for phase in profile["phases"]:
        if not phase["steps"]:
            parts += [safe_text(f"phase {phase['phase']}: too short to be recorded", "unsure"), ""]
            continue
        said = f"phase {phase['phase']}: {', '.join(phase['schedules'])}; {phase['steps']} steps recorded"
        parts += [safe_text(said, "label"), _shares("stage", phase["stages"]), "", _shares("group", phase["groups"])]
        parts += ["", _operators(phase), ""]
    return Group(*parts)


def _shares(name: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    table = new_table(name, "ms/step", "share")
    for label, row in rows.items():
        table.add_row(safe_text(label), f"{1e3 * row['seconds']:.3f}", share_of(row["share"], 1.0))
    return table


def _operators(phase: Mapping[str, Any]) -> Table:
    table = new_table("operator", "stage", "calls/step", "ms/step", "share", "MB", words=["stage"])
    for row in phase["operators"][:_SHOWN_OPERATORS]:
        numbers = (f"{row['calls']:,.1f}", f"{1e3 * row['seconds']:.3f}", share_of(row["share"], 1.0))
        table.add_row(safe_text(row["name"]), safe_text(row["stage"]), *numbers, f"{1e-6 * row['bytes']:,.1f}")
    return table
