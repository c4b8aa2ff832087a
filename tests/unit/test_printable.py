import pytest

from nutshell.printable import escape_controls, show_controls

C0 = [*range(0x20), 0x7F]
C1 = range(0x80, 0xA0)


def test_show_controls_keeps_all_that_prints():
    assert show_controls("\u00e9 (2-4)x2 \u4e2d") == "\u00e9 (2-4)x2 \u4e2d"
    assert show_controls("a\rb\u202ec") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"


@pytest.mark.parametrize("code", sorted({*C0, *C1} - {0x09, 0x0A}))
def test_every_control_character_is_spelt_out(code):
    assert escape_controls(f"a{chr(code)}b") == f"a\\x{code:02x}b"


def test_escape_controls_keeps_lines_tabs_and_all_other_text():
    text = "\tone\n\n\u00a0two \u00e9 \u4e2d \N{REPLACEMENT CHARACTER} \\x1b \U0001f469\u200d\U0001f52c\n"
    assert escape_controls(text) == text
