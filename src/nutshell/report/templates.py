"""The templates of the report and its drawings, and the colours and number formats that they share."""

from functools import cache
from pathlib import Path

import jinja2

from nutshell.units import format_seconds

HUES = 8
LIGHT = {
    "page": "#fbfaf7",
    "card": "#ffffff",
    "ink": "#1b1c1e",
    "muted": "#5c6066",
    "rule": "#dddbd4",
    "track": "#efede7",
    "accent": "#0b6b63",
    "accent-pale": "#cfe6e1",
    "other": "#918f87",
    "good": "#1d6b35",
    "bad": "#a3261c",
    "bad-page": "#fbe9e6",
    "warn": "#7a4b00",
    "warn-page": "#fdf1d8",
    "hue0": "#1f6f8b",
    "hue1": "#b04a22",
    "hue2": "#6b4fa0",
    "hue3": "#2f7448",
    "hue4": "#a83a6b",
    "hue5": "#7d6217",
    "hue6": "#3d5fb0",
    "hue7": "#76483a",
}
DARK = {
    "page": "#141517",
    "card": "#1b1d20",
    "ink": "#e9e8e4",
    "muted": "#a3a7ad",
    "rule": "#34373c",
    "track": "#282b2f",
    "accent": "#52c5b2",
    "accent-pale": "#1f4a45",
    "other": "#6d7178",
    "good": "#7fd398",
    "bad": "#ff9a8d",
    "bad-page": "#3a1a16",
    "warn": "#f2c266",
    "warn-page": "#35280f",
}


@cache
def environment() -> jinja2.Environment:
    """Open the folder of templates; all text that is filled in is escaped, and what is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"light": LIGHT, "dark": DARK, "hues": range(HUES)}
    made.filters |= {"exact": exact, "percent": percent, "duration": format_seconds}
    return made


def exact(number: float) -> str:
    """Write a number to the unit, its thousands apart."""
    return f"{number:,.0f}"


def percent(fraction: float, digits: int = 1) -> str:
    """Write a fraction as a percentage; one that would be shown as zero says that it is less."""
    if 0 < fraction < 0.5 * 0.1 ** (digits + 2):
        return f"< {0.1**digits:.{digits}f} %"
    return f"{fraction:.{digits}%}".replace("%", " %")
