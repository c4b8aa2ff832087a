"""An audit as a terminal shows it: a verdict for each probe, and what none of them sees."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nutshell.report.layout import new_table, safe_text

_STYLES = {"passed": "good", "failed": "bad"}


def audit_view(found: Mapping[str, Any]) -> RenderableType:
    """Verdicts with their evidence, then how much each probe saw and what it is blind to."""
    verdicts = new_table("probe", "verdict", "evidence", words=["verdict", "evidence"])
    limits = new_table("probe", "saw", "needs", "cannot see", words=["saw", "needs", "cannot see"])
    for verdict in found["verdicts"]:
        answer = safe_text(verdict["answer"], _STYLES.get(verdict["answer"], "unsure"))
        verdicts.add_row(verdict["probe"], answer, safe_text(verdict["evidence"]))
        limits.add_row(*(safe_text(verdict[name]) for name in ("probe", "saw", "needs", "blind")))
    says = {
        "passed": "no probe that could run has found anything; that is not proof of honesty",
        "failed": "a probe has failed",
        "cannot tell": "nothing failed, and not every probe could tell",
    }[found["answer"]]
    return Group(verdicts, "", limits, "", Text(says, _STYLES.get(found["answer"], "unsure")))
