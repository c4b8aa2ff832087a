"""benchmarks/compression.py on a tiny run: every stack packs, and the answer is that of the curves."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nutshell.errors import UsageError
from nutshell.recipe import resolve
from tiny_text import write_moved_run, write_tiny

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REST = """
[train]
batch_size = 4
seq_len = 20
budget = { steps = 1 }
[pack]
budget_bytes = 23_000
rules = [{ kind = "rtn", roles = ["matrix"] }]
[score]
stride = 10
"""


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark, which imports the files beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("compression_benchmark", BENCHMARKS / "compression.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def trained(benchmark):
    return sys.modules["compression_trained"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_tiny(tmp_path_factory.mktemp("compression"), REST)
    made = write_moved_run(folder)
    return made, folder / "data"


def test_every_stack_packs_a_tiny_run(benchmark, trained, run, monkeypatch, tmp_path, capsys):
    settings = trained.Settings(
        calibration_tokens=400, matrix_sigmas=(12.85,), table_sigmas=(20.0,), rates=(2.5, 4.0), states=(8,)
    )
    monkeypatch.setattr(trained, "Settings", lambda **given: replace(settings, documents=given["documents"]))
    made, data = run
    benchmark.main(run=made, data=data, json=True, out=tmp_path / "found.json")
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert json.loads((tmp_path / "found.json").read_text()).items() >= report.items()
    rows = report["results"]
    assert [(row["packer"], row["coder"]) for row in rows[:3]] == [
        ("rtn int8", "zlib"),
        ("trellis 8", "trellis8"),
        ("trellis 8", "trellis8"),
    ]
    assert [row["coder"] for row in rows[3:]] == 4 * ["brotli", "ans", "xz"]
    tables = {row["setting"]: row["num_bytes"] for row in rows if row["coder"] == "brotli"}
    assert len(set(tables.values())) == len(tables) == 4  # each metric and each table has codes of its own
    assert captured.err.count("\n") == len(rows)
    by_coder = rows[3:6]
    assert len({row["bpb"] for row in by_coder}) == 1  # the same codes
    assert len({row["num_bytes"] for row in by_coder}) == 3
    assert rows[1]["num_bytes"] < rows[2]["num_bytes"] < rows[0]["num_bytes"]
    assert rows[1]["predicted_nats"] > rows[2]["predicted_nats"] > rows[0]["predicted_nats"] > 0
    assert all(math.isfinite(row["gap_bits"]) for row in rows)


def test_a_benchmark_goes_on_where_it_was_stopped(benchmark, trained, run, monkeypatch, tmp_path, capsys):
    settings = trained.Settings(
        calibration_tokens=400, matrix_sigmas=(12.85,), table_sigmas=(20.0,), rates=(3.0,), states=(8,)
    )
    monkeypatch.setattr(trained, "Settings", lambda **given: replace(settings, documents=given["documents"]))
    made, data = run
    out = tmp_path / "found.json"

    def stop(report):
        if len(report["results"]) == 5:
            raise KeyboardInterrupt

    save = benchmark._save
    monkeypatch.setattr(benchmark, "_save", lambda path, report: (save(path, report), stop(report)))
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(run=made, data=data, out=out)
    monkeypatch.setattr(benchmark, "_save", save)
    capsys.readouterr()
    benchmark.main(run=made, data=data, out=out)
    assert capsys.readouterr().err.startswith("gptq ")
    rows = json.loads(out.read_text())["results"]
    assert len({(row["packer"], row["coder"], row["setting"]) for row in rows}) == len(rows) == 14
    benchmark.main(run=made, data=data, out=out)
    assert capsys.readouterr().err == ""
    assert json.loads(out.read_text())["results"] == rows


def row(trained, packer, num_bytes, bpb, setting=""):
    coder = "brotli" if packer == "gptq" else "trellis8"
    return trained.Measured(packer, coder, setting, num_bytes, 3.0, 0.1, 0.01, bpb, 1.0, 0.1)


def test_bytes_are_compared_at_equal_bits_per_byte(trained):
    field = [row(trained, "gptq", size, bpb) for size, bpb in ((500, 1.6), (1000, 1.5), (2000, 1.4), (1500, 1.55))]
    field[1] = replace(field[1], setting="inputs 12.85 / 20")
    ours = [row(trained, "trellis 8", size, bpb) for size, bpb in ((400, 1.6), (1600, 1.4))]
    found = trained.answer([*field, *ours])
    assert found["fewer_bytes_percent_at_equal_bpb"] == pytest.approx(20.0)  # 800 in the middle, by logarithms
    assert (found["equal_bpb"], found["points"]) == (1.5, [3, 2])
    assert (found["least_percent"], found["most_percent"]) == (pytest.approx(20.0), pytest.approx(20.0))
    assert found["percent_by_packer"] == {"trellis 8": pytest.approx(20.0)}


def test_curves_that_do_not_meet_have_no_answer(trained):
    rows = [row(trained, "gptq", 1000, 1.5, "inputs 12.85 / 20"), row(trained, "trellis 8", 900, 1.4)]
    found = trained.answer(rows)
    assert found["fewer_bytes_percent_at_equal_bpb"] is None
    assert found["least_percent"] is None


def test_fewer_documents_are_spread_over_the_text(trained, run):
    made, data = run
    settings = trained.Settings(calibration_tokens=100, metrics=("gradients",))
    whole = trained.Trained.open(made, data, settings).documents
    assert len(whole.ids) > 4
    some = trained.Trained.open(made, data, replace(settings, documents=2)).documents
    assert some.ids == (whole.ids[0], whole.ids[len(whole.ids) // 2])
    assert trained.Trained.open(made, data, replace(settings, documents=10**6)).documents.ids == whole.ids


def test_one_source_is_asked_for(benchmark):
    with pytest.raises(UsageError, match="give one of"):
        benchmark.main()
    with pytest.raises(UsageError, match="--data"):
        benchmark.main(run=Path("run"))


def test_the_recipe_of_the_larger_weights_resolves(benchmark):
    assert resolve(str(benchmark.RECIPE)).recipe.train.budget.seconds == 1500
