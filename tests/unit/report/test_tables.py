import io
from pathlib import Path

from rich.console import Console

from nutshell.report.tables import ledger_view, sample_view, score_view, summary_view
from nutshell.report.terminal import THEME

REPORT = Path("runs/demo/report.html")


def lines_of(view, width=80):
    console = Console(file=io.StringIO(), theme=THEME, width=width, markup=False)
    console.print(view, crop=False)
    return [" ".join(line.strip("\u2502 ").split()) for line in console.file.getvalue().splitlines()]


def test_summary_opens_with_the_answer_and_ends_with_the_report(load):
    title, *lines = lines_of(summary_view(load("summary.json"), report=REPORT))
    assert "demo" in title
    assert lines[0] == "1.7421 bits per byte, 34.2 % fewer than brotli (2.6482)"
    assert lines[1] == "987,654 bytes of 1,000,000 (98.77 %)"
    assert lines[2] == "proved: 12,345 tokens in 8 documents, 59,536 bits (+0.048 % of claim)"
    assert lines[3] == "5 min 00 s of training, 7 min 26 s in all"
    assert lines[-1] == "report: runs/demo/report.html"


def test_summary_keeps_a_long_path_whole(load):
    path = Path("runs") / ("x" * 120) / "report.html"
    assert lines_of(summary_view(load("summary.json"), report=path))[-1] == f"report: {path}"


def test_summary_of_an_unfinished_exploration(load):
    summary = {"name": "demo", "command": "c", "overrides": {"optim.matrix_lr": 0.03}}
    text = "\n".join(lines_of(summary_view(summary, report=REPORT), width=120))
    for words in ["not scored", "not packed", "not proved", "overrides: optim.matrix_lr = 0.03 - exploration"]:
        assert words in text


def test_summary_of_a_failed_proof(load):
    summary = load("summary.json")
    summary["proof"]["ok"] = False
    assert "proof failed: 12,345 tokens" in "\n".join(lines_of(summary_view(summary, report=REPORT)))


def test_score_is_quoted_with_its_units(load):
    lines = lines_of(score_view(load("summary.json")))
    assert lines[:9] == [
        "bits per byte 1.742139",
        "nats per byte 1.207558",
        "nats per token 3.342243",
        "tokens 407,000",
        "bytes 1,126,482",
        "documents 214",
        "coverage every byte",
        "bytes per token 2.76777",
        "strategy kind = sliding, context = 256, stride = 64",
    ]
    assert lines[10].startswith("the same artifact by other definitions, not this score")
    assert lines[12:14] == [
        "disjoint windows, each document alone 1.7711",
        "disjoint windows over the stream, the field's definition 1.7598",
    ]
    assert lines[-3:] == ["brotli 2.6482 34.2 % fewer", "zstd 2.7094 35.7 % fewer", "xz 2.7713 37.1 % fewer"]


def test_score_of_a_part_shows_its_coverage(load):
    lines = lines_of(score_view({**load("summary.json"), "coverage": 0.25}))
    assert "coverage 25.0000% of the bytes" in lines


def test_score_by_a_strategy_shows_its_settings_its_speed_and_its_budget(load):
    score = load("summary.json")
    score["strategy"]["settings"] = {"chunk_targets": 512}
    score["budget"] = {"seconds": 600.0, "forecast_seconds": 720.5, "kept": True}
    lines = lines_of(score_view({**score, "tokens_per_second": 12345.6}))
    assert "strategy kind = sliding, context = 256, stride = 64, chunk_targets = 512" in lines
    assert "speed 12,346 tokens/s" in lines
    assert "budget 10 min 00 s, kept; the whole text looked to take 12 min 00 s" in lines


def test_score_of_an_export_has_the_published_bytes_per_token_beside_its_own(load):
    score = load("summary.json") | {"published_bytes_per_token": {"published": 3.72663, "found": 3.726631}}
    says = "bytes per token 2.76777; by the published rule 3.72663, published 3.72663"
    assert says in lines_of(score_view(score), width=120)


def test_score_of_an_older_version_has_no_other_definitions(load):
    score = load("summary.json")
    del score["disjoint_bpb"], score["stream_bpb"], score["compressors"]
    assert len(lines_of(score_view(score))) == 9


def test_ledger_is_sorted_by_bytes(load):
    lines = lines_of(ledger_view(load("pack.json")))
    assert "artifact 987,654 bytes" in lines
    assert "budget 1,000,000 bytes, 98.77 % used" in lines
    assert "bits by role matrix 4, embedding 4, gain 16, scale 16" in lines
    assert lines[-7] == "matrix 781,302 79.11 % 3.53 planes"
    assert lines[-1] == "header 64 0.01 % - header"


def test_ledger_totals_bytes_by_kind(load):
    lines = lines_of(ledger_view(load("pack.json")), width=200)
    assert lines[2] == (
        "bytes by kind planes 953,602 (96.55 %), tokenizer 21,870 (2.21 %), raw 7,796 (0.79 %), "
        "manifest 3,118 (0.32 %), recipe 1,204 (0.12 %), header 64 (0.01 %)"
    )


def test_ledger_of_an_older_version_has_no_kinds(load):
    ledger = load("pack.json")
    del ledger["bytes_by_kind"]
    ledger["sections"] = [{key: row[key] for key in ("name", "kind", "bytes")} for row in ledger["sections"]]
    lines = lines_of(ledger_view(ledger))
    assert not [line for line in lines if line.startswith("bytes by kind")]
    assert lines[-1] == "header 64 0.01 % - header"


def test_ledger_without_a_budget(load):
    ledger = load("pack.json")
    del ledger["budget_bytes"], ledger["precision"]
    assert not [line for line in lines_of(ledger_view(ledger)) if line.startswith(("budget", "bits"))]


def test_a_sample_keeps_its_lines_and_cannot_command_the_terminal():
    console = Console(file=io.StringIO(), theme=THEME, width=80, markup=False)
    console.print(sample_view({"prompt": "", "text": "[red]one\n\n two\x1b[2J\x9b3m\r\x07"}))
    assert console.file.getvalue() == "[red]one\n\n two\\x1b[2J\\x9b3m\\x0d\\x07\n"


def test_names_cannot_command_the_terminal(load):
    text = "\n".join(lines_of(summary_view({**load("summary.json"), "name": "[red]\x1b[2J"}, report=REPORT)))
    assert "\x1b" not in text
    assert "[red]\N{REPLACEMENT CHARACTER}[2J" in text
