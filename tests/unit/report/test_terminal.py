import io
import json
import re

import pytest
from rich.console import Group
from rich.text import Text

from nutshell.report.terminal import Terminal

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ["FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def on_screen(monkeypatch):
    """Make a terminal whose stderr is a screen of 80 columns."""

    def make():
        screen = Screen()
        # Within the test: pytest puts its own streams back between set-up and call.
        monkeypatch.setattr("sys.stderr", screen)
        monkeypatch.setenv("COLUMNS", "80")
        return Terminal(), screen

    return make


def without_codes(text):
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text)


def train(terminal, rows):
    with terminal.training(predicted_artifact_bytes=991_000) as log:
        for row in rows:
            log(row)


def test_pipe_gets_whole_lines_and_nothing_else(capsys, rows):
    terminal = Terminal()
    assert terminal.voice == "plain"
    with terminal.stage("scoring", unit="tokens") as advance:
        for done in range(0, 1001, 10):
            advance(done, 1000)
    train(terminal, rows)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "\x1b" not in printed.err
    assert "\r" not in printed.err
    lines = printed.err.splitlines()
    assert lines[0] == "scoring ..."
    assert re.fullmatch(r"scoring: 1,000 tokens, .* s", lines[1])
    assert lines[2] == "step 0  loss 7.897  bpb 4.114  51,136 tok/s  160.2 ms/step  ~991 kB    0%  0-6"
    assert lines[-1].startswith(
        "step 1,480  loss 3.323  bpb 1.731  35,402 tok/s  231.4 ms/step  ~991 kB   98%  4.5 s left"
    )
    assert 15 < len(lines) - 2 < 30


def test_log_tells_of_a_new_phase_at_once(capsys, rows):
    train(Terminal(), rows[:67])
    assert "step 660" in capsys.readouterr().err.splitlines()[-1]
    train(Terminal(), [*rows[:67], rows[67]])
    assert "step 660" in capsys.readouterr().err.splitlines()[-2]


def test_long_runs_log_every_minute(capsys, rows):
    slow = [{**rows[0], "progress": 1e-4 * i, "seconds": 30.0 * i} for i in range(9)]
    train(Terminal(), slow)
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_colour_in_a_pipe_is_not_redrawing(capsys, monkeypatch, rows):
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal = Terminal()
    assert terminal.voice == "plain"
    train(terminal, rows)
    assert HIDE_CURSOR not in capsys.readouterr().err


def test_dumb_terminal_is_not_redrawn(on_screen, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal, _ = on_screen()
    assert terminal.voice == "plain"


def test_json_is_silent_but_for_the_result(capsys, rows):
    terminal = Terminal(as_json=True)
    terminal.note("nothing")
    with terminal.stage("scoring", unit="tokens") as advance:
        advance(1, 2)
    train(terminal, rows)
    value = {"name": "[bold]\n" + "x" * 200, "bpb": 1.5}
    terminal.result(value, lambda _: pytest.fail("a view is for people"))
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out) == value


def test_result_goes_to_stdout(capsys):
    Terminal().result({"bpb": 1.5}, lambda value: f"[red] bpb {value['bpb']} {'x' * 90}")
    assert capsys.readouterr() == (f"[red] bpb 1.5 {'x' * 90}\n", "")


def test_long_lines_of_a_pipe_stay_whole(capsys):
    terminal = Terminal()
    terminal.note("x " * 200)
    terminal.result(None, lambda _: Group(Text("y" * 400, no_wrap=True, overflow="ignore")))
    assert capsys.readouterr() == ("y" * 400 + "\n", "x " * 200 + "\n")


def test_training_is_drawn_within_a_narrow_terminal(on_screen, rows):
    for row in rows:
        row["schedule"] = "0-1 (2-4)x2 5-6 (7-9)x4 10-12 (13-15)x2 16-20"
    terminal, screen = on_screen()
    assert terminal.voice == "live"
    train(terminal, rows)
    drawn = screen.getvalue()
    body, _, last = drawn.rpartition(SHOW_CURSOR)
    lines = [line for line in re.split(r"[\r\n]+", without_codes(body)) if line]
    assert len(lines) == 2 * (len(rows) + 1)
    assert max(map(len, lines)) == 80
    assert "step 660  loss 3.452" in without_codes(body)
    assert "3 min 14 s left" in without_codes(body)
    assert "\x1b[1A\x1b[2K" in last
    assert without_codes(last).strip().startswith("step 1,480  loss 3.323")
    # Rows came every 1.6 and 2.3 s: each is drawn, and the last once more at the end.
    assert body.count("ms/step") == len(rows) + 1


def test_training_is_not_redrawn_for_every_row(on_screen, rows):
    terminal, screen = on_screen()
    train(terminal, [{**rows[0], "seconds": 0.1 * i} for i in range(21)])
    assert screen.getvalue().rpartition(SHOW_CURSOR)[0].count("ms/step") == 5 + 1


def test_a_log_has_a_line_at_a_new_phase_and_none_for_every_drawn_schedule(capsys, rows):
    near = {"progress": 0.5, "seconds": 10.0}
    train(Terminal(), [{**rows[0], **near, "phase": step // 6, "schedule": f"0-{step % 2}"} for step in range(12)])
    assert len(capsys.readouterr().err.splitlines()) == 3  # the first, the first of phase 1, the last


@pytest.mark.parametrize("how", ["stage", "training"])
def test_interrupt_gives_the_cursor_back(on_screen, rows, how):
    terminal, screen = on_screen()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the interrupt comes inside the block
        if how == "stage":
            with terminal.stage("packing", unit="tensors") as advance:
                advance(1, 9)
                raise KeyboardInterrupt
        with terminal.training(predicted_artifact_bytes=991_000) as log:
            log(rows[0])
            raise KeyboardInterrupt
    drawn = screen.getvalue()
    assert drawn.count(HIDE_CURSOR) == drawn.count(SHOW_CURSOR) == 1
    assert drawn.index(HIDE_CURSOR) < drawn.index(SHOW_CURSOR)
    assert "packing:" not in drawn


def test_stage_shows_counts_while_it_runs(on_screen):
    terminal, screen = on_screen()
    with terminal.stage("scoring", unit="tokens") as advance:
        advance(400, 1000)
    assert "400 of 1,000 tokens" in without_codes(screen.getvalue())
    assert "scoring: 400 tokens, " in without_codes(screen.getvalue())


def test_no_color(on_screen, monkeypatch, rows):
    terminal, screen = on_screen()
    train(terminal, rows[:40])
    assert "\x1b[36m" in screen.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, screen = on_screen()
    train(terminal, rows[:40])
    assert "ms/step" in screen.getvalue()
    assert not re.search(r"\x1b\[[\d;]*3\d", screen.getvalue())


def test_text_is_neither_markup_nor_control(capsys, rows):
    terminal = Terminal()
    terminal.note("[red]:smile:[/] \x1b]0;title\x07 two\nlines")
    rows[0]["schedule"] = "\x1b[2J"
    train(terminal, rows[:1])
    err = capsys.readouterr().err
    assert err.startswith("[red]:smile:[/] \N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER} two")
    assert "\x1b" not in err
    assert len(err.splitlines()) == 2
