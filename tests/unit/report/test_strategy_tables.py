import xml.etree.ElementTree as ET

from rich.console import Console

from nutshell.report.strategy_tables import strategies_chart, strategies_view
from nutshell.report.terminal import THEME


def row(strategy, **numbers):
    return {"strategy": strategy, "loading_seconds": 1.0, **numbers}


RESULT = {
    "metric": "bpb",
    "tokens": 291_835,
    "bytes": 979_523,
    "documents": 34,
    "processor": "a processor",
    "threads": 2,
    "ranks": 1,
    "rows": [
        row("disjoint", bpb=1.46, gain=0.0, seconds=11.0, tokens_per_second=29_000.0),
        row("sliding,stride=8", bpb=1.4308, gain=0.02, seconds=91.0, tokens_per_second=3_000.0),
    ],
}


def lines_of(view):
    console = Console(width=100, theme=THEME)
    with console.capture() as captured:
        console.print(view)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_a_table_of_strategies_has_gains_over_the_first_and_seconds_of_scoring_alone():
    lines = lines_of(strategies_view(RESULT))
    assert "text 34 documents, 291,835 tokens, 979,523 bytes" in lines
    assert "machine a processor, 2 threads, 1 process" in lines
    assert "disjoint 1.46000 - 10 s 29,000" in lines
    assert "sliding,stride=8 1.43080 +2.00% 90 s 3,000" in lines


def test_the_drawing_names_every_strategy_and_is_the_same_for_the_same_rows():
    svg = strategies_chart(RESULT, width=400, height=300)
    root = ET.fromstring(svg)  # made here
    words = " ".join(" ".join(root.itertext()).split())
    assert "1 disjoint 2 sliding,stride=8" in words
    assert "seconds of scoring" in words
    assert strategies_chart(RESULT, width=400, height=300) == svg


def test_a_long_name_leaves_room_for_the_drawing(recwarn):
    row = {**RESULT["rows"][0], "strategy": "chunked_sgd," + "learner.lr=0.05," * 20}
    svg = strategies_chart({**RESULT, "rows": [row]}, width=400, height=300)
    assert row["strategy"][:110] + " ..." in svg
    assert not recwarn.list
