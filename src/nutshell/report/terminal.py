"""What nutshell says in a terminal, and where: progress, notes and log lines on stderr, a verb's result on stdout.

It has three voices. *Live* redraws a line in place, on a real terminal. *Plain* writes whole lines, sparingly, to a
file or pipe. *Silent* says nothing on the way and prints the result as JSON (`--json`). Text is never read as markup,
and control characters in it are shown, not obeyed: names may come from a stranger's file.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TextIO

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from nutshell.printable import show_controls
from nutshell.report.stored import MetricsRow
from nutshell.units import format_bytes, format_seconds

THEME = Theme(
    {
        "answer": "bold",
        "good": "green",
        "bad": "bold red",
        "unsure": "yellow",
        "label": "dim",
        "bar.complete": "cyan",
        "bar.finished": "cyan",
        "bar.pulse": "cyan",
    },
)

# Told to a stage as it goes: how much is done, of how much.
Advance = Callable[[float, float], None]

# Told of each logged step, a row of metrics.jsonl.
LogRow = Callable[[Mapping[str, Any]], None]

_REDRAW_SECONDS = 0.5
# A log should stay readable whether a run takes a minute or a day.
_LOG_PROGRESS = 0.05
_LOG_SECONDS = 60.0
_FILE_WIDTH = 120


class Terminal:
    """The two streams of a process and the voice to use on them.

    Args:
        as_json: be silent, and print results as JSON.
        mute: say and print nothing at all: another process of the same run does.
    """

    def __init__(self, *, as_json: bool = False, mute: bool = False) -> None:
        self.err = _console(sys.stderr)
        self.out = _console(sys.stdout)
        # FORCE_COLOR makes rich take a pipe for a terminal: colours are welcome there, redrawing is not.
        live = self.err.is_interactive and sys.stderr.isatty()
        self.voice: Literal["live", "plain", "silent"] = "silent" if as_json or mute else "live" if live else "plain"
        self._mute = mute

    def note(self, text: str, style: str = "") -> None:
        """Say one line on the way."""
        if self.voice != "silent":
            self.err.print(Text(show_controls(text), style), soft_wrap=True)

    def result(self, value: Any, view: Callable[[Any], RenderableType]) -> None:
        """Print what a verb was asked for: `view(value)` for people, or `value` as JSON."""
        if self._mute:
            return
        if self.voice == "silent":
            self.out.file.write(json.dumps(value, indent=2) + "\n")
        else:
            self.out.print(view(value), crop=False)

    @contextlib.contextmanager
    def stage(self, description: str, *, unit: str) -> Iterator[Advance]:
        """Show the progress of a long stage while the block runs, and one line when it has ended well.

        The block is given a function to call with (done, total) in `unit`; until its first call the stage is shown as
        running without an end in sight.
        """
        start, done = time.monotonic(), 0.0
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            _Counts(unit),
            console=self.err,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=self.voice != "live",
        )
        task = bar.add_task(show_controls(description), total=None)

        def advance(now_done: float, total: float) -> None:
            nonlocal done
            done = now_done
            bar.update(task, completed=now_done, total=total)

        if self.voice == "plain":
            self.note(f"{description} ...")
        with bar:
            yield advance
        counted = f"{done:,.0f} {unit}, " if done else ""
        self.note(f"{description}: {counted}{format_seconds(time.monotonic() - start)}")

    @contextlib.contextmanager
    def training(self, *, predicted_artifact_bytes: int) -> Iterator[LogRow]:
        """Show training while the block runs; the block is given a function to call with each row of metrics."""
        line = _TrainingLine(self, predicted_artifact_bytes)
        with line.live or contextlib.nullcontext():
            yield line.show
        line.close()


def _console(file: TextIO) -> Console:
    # A file has no width; rich would take 80 columns and cut tables to fit.
    width = None if file.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH
    return Console(file=file, theme=THEME, width=width, markup=False, emoji=False, highlight=False)


class _Counts(ProgressColumn):
    """How much of how much, and the time left; the time spent while no total is known."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(format_seconds(task.elapsed or 0.0), "label")
        counts = f"{task.completed:,.0f} of {task.total:,.0f} {self.unit}"
        left = "" if task.time_remaining is None else f"  {format_seconds(task.time_remaining)} left"
        return Text(counts + left)


class _TrainingLine:
    """Training in two redrawn lines, or in a log line now and then."""

    def __init__(self, terminal: Terminal, predicted_artifact_bytes: int) -> None:
        self.terminal = terminal
        self.predicted = f"~{format_bytes(predicted_artifact_bytes)}"
        self.row: MetricsRow | None = None
        self.shown: MetricsRow | None = None
        self.live: Live | None = None
        if terminal.voice == "live":
            self.live = Live(
                console=terminal.err,
                auto_refresh=False,  # no thread beside the training: the line moves when a row comes
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def show(self, row: Mapping[str, Any]) -> None:
        self.row = msgspec.convert(row, MetricsRow)
        if self.live is not None:
            if self.shown is None or self.row.seconds - self.shown.seconds >= _REDRAW_SECONDS:
                self.live.update(self._drawn(self.row), refresh=True)
                self.shown = self.row
        elif self.shown is None or _is_due(self.row, self.shown):
            self._log(self.row)

    def close(self) -> None:
        if self.row is not None and (self.live is not None or self.row is not self.shown):
            self._log(self.row)

    def _log(self, row: MetricsRow) -> None:
        self.terminal.note(f"{_numbers(row)}  {self.predicted}  {_place(row)}")
        self.shown = row

    def _drawn(self, row: MetricsRow) -> RenderableType:
        above = Table.grid(padding=(0, 1))
        above.add_row(ProgressBar(total=1.0, completed=row.progress, width=24), _text(_place(row)))
        return Group(above, _text(f"{_numbers(row)}  {self.predicted}"))


def _text(line: str) -> Text:
    return Text(show_controls(line), no_wrap=True, overflow="ellipsis")


def _numbers(row: MetricsRow) -> str:
    return (
        f"step {row.step:,}  loss {row.loss:.3f}  bpb {row.bpb:.3f}"
        f"  {row.tokens_per_second:,.0f} tok/s  {row.ms_per_step:.1f} ms/step"
    )


def _place(row: MetricsRow) -> str:
    left = f"{format_seconds(row.seconds * (1 / row.progress - 1))} left  " if row.progress > 0 else ""
    return f"{row.progress:4.0%}  {left}{row.schedule}"


def _is_due(row: MetricsRow, shown: MetricsRow) -> bool:
    return (
        row.phase != shown.phase
        or row.progress - shown.progress >= _LOG_PROGRESS
        or row.seconds - shown.seconds >= _LOG_SECONDS
    )
