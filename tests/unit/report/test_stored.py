import hashlib
import json

import pytest

from nutshell.errors import RunError
from nutshell.report.stored import Proof, Summary, read_run

NECESSARY = ["summary.json", "run.json", "metrics.jsonl", "describe.json", "recipe.toml"]


def test_reads_every_file(run_dir):
    run = read_run(run_dir)
    assert run.score is not None
    assert run.ledger is not None
    assert (run.summary.name, run.score.tokens, run.receipt.seed) == ("demo", 407_000, 42)
    assert len(run.metrics) == 149
    assert run.description.skips == [(0, 9), (1, 8), (2, 7)]
    assert run.recipe == (run_dir / "recipe.toml").read_text()


def test_names_the_files_it_read_by_their_hashes(run_dir):
    run = read_run(run_dir)
    assert [source.name for source in run.sources] == [*NECESSARY, "pack.json"]
    for source in run.sources:
        content = (run_dir / source.name).read_bytes()
        assert (source.bytes, source.sha256) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", NECESSARY)
def test_missing_file_is_one_line(run_dir, name):
    (run_dir / name).unlink()
    with pytest.raises(RunError, match=f"{name}: cannot read it .*finished run") as caught:
        read_run(run_dir)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["summary.json", "run.json", "describe.json", "pack.json"])
@pytest.mark.parametrize("content", [b"", b'{"name": "de', b"[]", b'{"name": "\xff\xfe"}', b'{"name": 3}'])
def test_damaged_file_is_one_line(run_dir, name, content):
    (run_dir / name).write_bytes(content)
    with pytest.raises(RunError, match=f"{name}: damaged") as caught:
        read_run(run_dir)
    assert "\n" not in str(caught.value)


def test_torn_row_is_named_by_its_line(run_dir, rows):
    (run_dir / "metrics.jsonl").write_text(json.dumps(rows[0]) + '\n{"step": 10, "pro')
    with pytest.raises(RunError, match=r"metrics.jsonl, line 2: damaged"):
        read_run(run_dir)


def test_skip_to_nowhere_is_damage(run_dir, edit):
    edit("describe.json", skips=[[0, 10]])
    with pytest.raises(RunError, match=r"describe.json: damaged.*skip \[0, 10\]"):
        read_run(run_dir)


def test_before_packing_and_scoring(run_dir, edit):
    (run_dir / "pack.json").unlink()
    edit("summary.json", bpb=None)
    run = read_run(run_dir)
    assert run.ledger is None
    assert run.score is None


def test_score_needs_all_of_its_parts(run_dir, edit):
    edit("summary.json", nats_per_token=None)
    with pytest.raises(RunError, match="nats_per_token"):
        read_run(run_dir)


def test_saving_is_against_the_best_compressor():
    summary = Summary(name="x", command="y", bpb=1.5, compressors={"xz": 3.0, "brotli": 2.0, "zstd": 2.5})
    assert summary.best_compressor == "brotli"
    assert summary.saving_frac == 0.25
    assert Summary(name="x", command="y", bpb=1.5).saving_frac is None


def test_excess_is_relative_to_the_claim():
    assert Proof(ok=True, tokens=1, documents=1, claimed_bits=1000, coded_bits=1001).excess_frac == pytest.approx(0.001)
