"""The pieces that views of a terminal are made of: facts, tables, text that cannot command the terminal."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nutshell.printable import show_controls

_ENDLESS = 1_000


def new_facts(facts: Mapping[str, str]) -> Table:
    """Lay out labels and values."""
    table = Table.grid(padding=(0, 2))
    for label, value in facts.items():
        table.add_row(Text(label, "label"), safe_text(value))
    return table


def new_table(name: str, *columns: str, words: Sequence[str] = ()) -> Table:
    """Begin a table whose first column and those of `words` hold text, and the others numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="label")
    table.add_column(name, overflow="fold")
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", overflow="fold")
    return table


def safe_text(value: str, style: str = "") -> Text:
    """Take text from anywhere; control characters are shown."""
    return Text(show_controls(value), style)


def share_of(part: float, whole: float) -> str:
    """Write a part as a percentage of the whole."""
    return f"{100 * part / whole:.2f} %" if whole else "-"


class Fitting:
    """Several layouts of the same, the widest first: the first one that fits is shown, or the last."""

    def __init__(self, *layouts: RenderableType) -> None:
        self.layouts = layouts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        endless = options.update(width=_ENDLESS)
        widths = ((layout, Measurement.get(console, endless, layout).maximum) for layout in self.layouts)
        yield next((layout for layout, width in widths if width <= options.max_width), self.layouts[-1])
