import io

import pytest
from rich.console import Console

from nutshell.report.probe_tables import probe_view
from nutshell.report.terminal import THEME


def summary(mean, rms):
    return {"mean": mean, "std": 0.5, "rms": rms}


def visit(index, block, iteration, **changes):
    branch = {"output_rms": 0.25, "gain": 0.125, "scale_rms": 2.0, "shift_rms": 0.0}
    plain = {
        "index": index,
        "block": block,
        "iteration": iteration,
        "stream_rms": 3.14159265,
        "update_rms": 1.5,
        "kept": summary(0.75, 0.8),
        "attention": branch,
        "mlp": branch | {"gain": None},
        "cosine": None,
        "update_cosine": None,
        "gradient_norm": 1e-7,
        "jacobian_norm": None,
        "values": {"birkhoff.alpha": summary(0.5 + index, 0.6 + index)},
    }
    return plain | changes


@pytest.fixture
def reading():
    return {
        "schedule": "0 (1)x2",
        "trained_schedule": "0 (1)x2",
        "tokens": 2048,
        "loss": 3.25,
        "visits": [visit(0, 0, 0), visit(1, 1, 0), visit(2, 1, 1, cosine=0.99, update_cosine=-0.25)],
        "repeats": [{"block": 1, "spread": {"birkhoff.alpha": 0.125}, "spectral_norms": {"mlp.up": 7.5}}],
        "retention": {"passes": [0.75, 0.5], "whole": 0.28125},
        "skips": {"0_0_to_1_1": {"keep": summary(0.61, 0.62)}},
        "parts": {"embedding": {"weight_norm": 10.0, "gradient_norm": None}},
        "early_stop": None,
        "quantization": None,
    }


EARLY_STOP = {
    "loop": "(1)x2",
    "sequences": 16,
    "passes": [
        {"passes": 1, "schedule": "0 (1)x1", "loss": 3.5, "increment": None, "delta": None, "ratio": None},
        {"passes": 2, "schedule": "0 (1)x2", "loss": 3.25, "increment": 0.75, "delta": 0.0625, "ratio": None},
    ],
    "stops": [{"eps": 0.01, "loss": 3.375, "mean_passes": 1.75, "fewest": 2, "most": 4, "unmet": 5}],
}
QUANTIZATION = {
    "exact_loss": 3.125,
    "packed_loss": 3.25,
    "input_error": 0.015625,
    "visits": [
        {"index": 1, "block": 1, "iteration": 0, "error": 0.03125, "cosine": 0.875, "growth": None},
        {"index": 2, "block": 1, "iteration": 1, "error": 0.0625, "cosine": 0.625, "growth": 2.0},
    ],
    "passes": [{"number": 1, "error": 0.03125, "growth": None}, {"number": 2, "error": 0.0625, "growth": 1.5}],
}


def lines_of(reading):
    console = Console(file=io.StringIO(), theme=THEME, width=120, markup=False)
    console.print(probe_view(reading), crop=False)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_a_probe_shows_every_number_under_its_name(reading):
    lines = lines_of(reading)
    assert lines[0] == "schedule 0 (1)x2"
    assert "loss 3.25 nats/token over 2,048 tokens" in lines
    assert "retention 0.2812 over all visits" in lines
    assert "of each pass 0.75, 0.5" in lines
    assert "visit block iteration stream RMS update RMS kept cosine update cosine gradient" in lines
    assert "2 1 1 3.142 1.5 0.75 0.99 -0.25 1e-07" in lines
    assert "0 0.25 0.125 2 0 0.25 - 2 0" in lines  # both branches; a gain that is not finite
    assert "birkhoff.alpha 3 0.5 2.5 0.6 2.6 0.125" in lines
    assert "1 7.5" in lines
    assert "0_0_to_1_1 keep 0.61 0.5 0.62" in lines
    assert "embedding 10 -" in lines


def test_what_was_not_measured_has_no_column_and_what_there_is_none_of_no_table(reading):
    assert not any("stretch" in line for line in lines_of(reading))
    reading["visits"][0]["jacobian_norm"] = 1.25
    assert any(line.endswith("gradient stretch") for line in lines_of(reading))
    assert any(line.endswith("1e-07 1.25") for line in lines_of(reading))
    bare = reading | {"repeats": [], "skips": {}, "retention": {"passes": [], "whole": 1.0}}
    text = "\n".join(lines_of(bare))
    assert not any(words in text for words in ("spectral norms", "skip", "each pass"))


def test_what_packing_changed_is_shown_where_it_was_asked_for(reading):
    assert not any("quantization" in line or "before packing" in line for line in lines_of(reading))
    lines = lines_of(reading | {"quantization": QUANTIZATION})
    assert "before packing 3.125 nats/token; embedded tokens off by 0.01562" in lines
    assert "quantization, visit block iteration error cosine growth" in lines
    assert "1 1 0 0.03125 0.875 -" in lines
    assert "2 1 1 0.0625 0.625 2" in lines
    assert lines.index("2 0.0625 1.5") == lines.index("quantization, pass error growth") + 3


def test_where_a_loop_could_stop_is_shown_where_it_was_asked_for(reading):
    assert not any("stop below" in line for line in lines_of(reading))
    lines = lines_of(reading | {"early_stop": [EARLY_STOP]})
    assert "(1)x2, passes loss increment delta ratio" in lines
    assert "1 3.5 - - -" in lines
    assert "2 3.25 0.75 0.0625 -" in lines
    assert "(1)x2, stop below loss passes fewest most never" in lines
    assert "0.01 3.375 1.75 2 4 5 of 16" in lines


def test_another_schedule_than_the_trained_one_is_named(reading):
    reading["trained_schedule"] = "0 1"
    assert lines_of(reading)[0] == "schedule 0 (1)x2, trained as 0 1"


def test_names_cannot_command_the_terminal(reading):
    hostile = "\x1b[2J"
    reading["visits"][0]["values"] = {hostile: summary(0.0, 0.0)}
    reading |= {
        "schedule": hostile,
        "skips": {hostile: {hostile: summary(0.0, 0.0)}},
        "parts": {hostile: {"weight_norm": 1.0, "gradient_norm": 1.0}},
    }
    reading["repeats"][0]["spectral_norms"] = {hostile: 1.0}
    reading["early_stop"] = [EARLY_STOP | {"loop": hostile}]
    console = Console(file=io.StringIO(), theme=THEME, width=120, markup=False)
    console.print(probe_view(reading), crop=False)
    assert "\x1b" not in console.file.getvalue()
