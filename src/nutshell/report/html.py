"""The report of a run: one HTML file that needs nothing else, neither network nor script.

It opens with the answer and goes on to the evidence. Everything shown is read from the stored files of the run
directory (`stored.py`), and the page says which ones, with their hashes; all that is added is a check that the stored
numbers agree with each other (`checks.py`). The same files give the same bytes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from markupsafe import Markup

from nutshell import __version__, files
from nutshell.report.charts import OPENING_FRAC, loss_curve, split_phases
from nutshell.report.checks import check_run
from nutshell.report.diagram import draw_depth
from nutshell.report.stored import Ledger, Section, StoredRun, read_run
from nutshell.report.templates import environment, exact
from nutshell.units import nats_from_bits

# A ledger may name hundreds of tensors; past this many, the smallest sections share one row.
_MAX_SECTIONS = 14


def write_report(run_dir: Path) -> Path:
    """Write `report.html` from the files of a finished run, and return its path.

    What a run has not done (packed, scored, proved) is said in words in its place.

    Raises:
        RunError: a file that every finished run has is missing or damaged.
        OSError: the report cannot be written.
    """
    path = run_dir / "report.html"
    files.write_bytes(path, render(read_run(run_dir)).encode())
    return path


def render(run: StoredRun) -> str:
    """Fill the page with a run."""
    template = environment().get_template("report.html.j2")
    return template.render(
        run=run,
        version=__version__,
        checks=check_run(run),
        nats_per_byte=None if run.score is None else nats_from_bits(run.score.bpb),
        bars=_comparison(run),
        phases=split_phases(run.metrics),
        opening_frac=OPENING_FRAC,
        wide_loss=_loss(run, width=1000, height=360),
        narrow_loss=_loss(run, width=380, height=320),
        section_rows=[] if run.ledger is None else _section_rows(run.ledger),
        seconds_rows=[(name, seconds, f"{seconds:.1f}") for name, seconds in run.summary.seconds.items()],
        depth=Markup(draw_depth(run.description, standalone=False)),  # escaped by its template
        list_pairs=_list_pairs,
    )


def _list_pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {_words(value)}" for key, value in settings.items())


def _words(value: Any) -> str:
    """Write a setting as a reader would say it: names with plus signs, nested tables as JSON."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " + ".join(value)
    return json.dumps(value) if isinstance(value, list | Mapping) else str(value)


def _loss(run: StoredRun, *, width: int, height: int) -> Markup | None:
    rows = run.metrics
    if not rows or rows[-1].seconds <= rows[0].seconds:
        return None
    return Markup(loss_curve(rows, scored_bpb=run.summary.bpb, width=width, height=height))  # escaped by matplotlib


class Bar(msgspec.Struct, frozen=True):
    """A bar of the comparison; `excess_frac` is its bits per byte over those of the best compressor, less one."""

    label: str
    bpb: float
    excess_frac: float
    is_model: bool


def _comparison(run: StoredRun) -> list[Bar]:
    best = run.summary.best_compressor
    if run.score is None or best is None:
        return []
    reference = run.summary.compressors[best]
    bars = [Bar(name, bpb, bpb / reference - 1, False) for name, bpb in run.summary.compressors.items()]
    bars.append(Bar(run.summary.name, run.score.bpb, run.score.bpb / reference - 1, True))
    return sorted(bars, key=lambda bar: bar.bpb)


def _section_rows(ledger: Ledger) -> list[tuple[str, int, str]]:
    """Label, bytes, and bytes as text, largest first; the rest together when they are many."""
    sections = sorted(ledger.sections, key=lambda section: -section.bytes)
    rows = [(_label(section), section.bytes) for section in sections]
    if len(rows) > _MAX_SECTIONS:
        rest = [num_bytes for _, num_bytes in rows[_MAX_SECTIONS - 1 :]]
        rows = [*rows[: _MAX_SECTIONS - 1], (f"{len(rest)} smaller sections", sum(rest))]
    return [(label, num_bytes, exact(num_bytes)) for label, num_bytes in rows]


def _label(section: Section) -> str:
    return section.name if section.kind == section.name else f"{section.name} ({section.kind})"
