import io

from rich.console import Console

from nutshell.report.pass_tables import passes_view
from nutshell.report.terminal import THEME

CHANGE = {"increment": 0.25, "delta": 0.125, "ratio": None, "below": {"0.1": 0.75, "0.01": 0.0}}
RESULT = {
    "schedule": "0 (1)x2 2",
    "trained_schedule": "0 (1)x2 2",
    "windows": "rolling",
    "context": 128,
    "stride": 32,
    "tokens": 12_345,
    "bytes": 67_890,
    "loops": [
        {
            "loop": "(1)x2",
            "windows": 100,
            "passes": [
                {"passes": 1, "schedule": "0 (1)x1 2", "bpb": 2.0, "nats_per_token": 4.0, "change": None},
                {"passes": 2, "schedule": "0 (1)x2 2", "bpb": 1.5, "nats_per_token": 3.0, "change": CHANGE},
                {
                    "passes": 3,
                    "schedule": "0 (1)x3 2",
                    "bpb": 1.75,
                    "nats_per_token": 3.5,
                    "change": CHANGE | {"ratio": 0.5},
                },
            ],
        }
    ],
}


def lines_of(result):
    console = Console(file=io.StringIO(), theme=THEME, width=120, markup=False)
    console.print(passes_view(result), crop=False)
    return [line for line in (" ".join(line.split()) for line in console.file.getvalue().splitlines()) if line]


def test_a_row_for_each_number_of_passes():
    lines = lines_of(RESULT)
    assert lines[:4] == [
        "schedule 0 (1)x2 2",
        "tokens 12,345",
        "bytes 67,890",
        "windows rolling, context = 128, stride = 32",
    ]
    assert lines[4] == "(1)x2, passes bits/byte nats/token increment delta ratio below 0.1 below 0.01"
    assert lines[-3:] == [
        "1 2.0000 4.0000 - - - - -",
        "2 trained 1.5000 3.0000 0.25 0.125 - 75.0% 0.0%",
        "3 1.7500 3.5000 0.25 0.125 0.5 75.0% 0.0%",
    ]


def test_another_schedule_than_the_trained_one_says_so():
    lines = lines_of(RESULT | {"trained_schedule": "0-2"})
    assert lines[0] == "schedule 0 (1)x2 2, trained as 0-2"
    assert not any("trained" in line for line in lines[1:])


def test_one_pass_alone_has_no_bounds():
    loop = RESULT["loops"][0]
    lines = lines_of(RESULT | {"loops": [loop | {"passes": loop["passes"][:1]}]})
    assert lines[-1] == "1 2.0000 4.0000 - - -"
