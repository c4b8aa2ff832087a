"""Text that a terminal shows and does not obey: names, messages and model output may come from a stranger's file."""

import unicodedata


def show_controls(text: str) -> str:
    """Replace what a terminal would obey (escape sequences, carriage returns) by a visible mark."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def escape_controls(text: str) -> str:
    r"""Spell out the control characters of a running text, as in `\x1b`; its lines and tabs stay."""
    return "".join(f"\\x{ord(letter):02x}" if _is_control(letter) else letter for letter in text)


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) == "Cc" and letter not in "\n\t"
