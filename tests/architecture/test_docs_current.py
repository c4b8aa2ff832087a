"""What is made in the documents is what the code and the stored results say now."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "make_docs.py"
_spec = importlib.util.spec_from_file_location("make_docs", TOOL)
make_docs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_docs)

KINDS = {make_docs.tag(kind): kind for kinds in make_docs.kinds().values() for kind in kinds}
PAGES = ROOT / "docs" / "techniques"

SUMMARY = {
    "name": "demo",
    "metric": "bpb",
    "bpb": 1.5,
    "nats_per_token": 2.5,
    "tokens": 400_000,
    "bytes": 1_000_000,
    "documents": 34,
    "coverage": 1.0,
    "strategy": {"kind": "sliding", "unit": "document", "context": 256, "stride": 64, "rules": ["charge_end"]},
    "compressors": {"xz -9e": 2.5, "brotli -11": 2.4},
    "artifact": "model.nut",
    "artifact_bytes": 999_123,
    "budget_bytes": 1_000_000,
    "proof": {"ok": True, "tokens": 20_000, "documents": 8, "claimed_bits": 75_000.25, "coded_bits": 75_008},
    "seconds": {"train": 300.0, "pack": 20.0, "score": 10.0},
    "command": "nutshell demo",
    "overrides": {},
}
RECEIPT = {
    "recipe_digest": "1",
    "data_digest": "2",
    "tokenizer_sha256": "3",
    "versions": {"torch": "2.13.0"},
    "processor": "a processor",
    "threads": 2,
    "compute_dtype": "bf16",
    "device": "cpu",
    "seed": 0,
    "steps": 1234,
    "tokens": 10_000_000,
    "num_params": 1_500_000,
}


@pytest.fixture
def finished_run(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "run.json").write_text(json.dumps(RECEIPT))
    return tmp_path


def test_the_documents_are_current():
    stale = [path for path, text in make_docs.current(ROOT).items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run: python tools/make_docs.py"


def test_check_fails_where_a_table_is_out_of_date(monkeypatch, tmp_path, capsys):
    stored = [str(path.relative_to(ROOT)) for path in (ROOT / "results").glob("*.json")]
    for path in ("README.md", "docs/techniques/README.md", "docs/scoring-rules.md", "docs/compressing.md", *stored):
        if (ROOT / path).exists():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    table = tmp_path / "docs" / "techniques" / "README.md"
    table.write_text(table.read_text(encoding="utf-8").replace("| `heads` |", "| `hands` |"), encoding="utf-8")
    monkeypatch.setattr(make_docs, "ROOT", tmp_path)
    assert [run(monkeypatch, *options) for options in (["--check"], [], ["--check"])] == [1, 0, 0]
    said = ["docs/techniques/README.md: out of date", "docs/techniques/README.md: written"]
    assert capsys.readouterr().out.splitlines() == said


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["make_docs.py", *options])
    with pytest.raises(SystemExit) as ended:
        make_docs.main()
    return ended.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_the_seven_fields_and_has_a_page(kind):
    module = sys.modules[KINDS[kind].__module__]
    assert tuple(make_docs.fields(module.__doc__)) == make_docs.FIELDS
    page = (PAGES / f"{kind}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# `{kind}`: ")
    assert "**Measured here**" in page


def test_every_page_is_of_a_kind_or_of_depth():
    pages = {path.stem for path in PAGES.glob("*.md")}
    assert pages == KINDS.keys() | {"README", "attention", "depth_schedule", "head", "norms", "skips"}


def test_a_field_may_go_on_in_indented_lines():
    said = make_docs.fields("Title.\n\nWhat:      one\n           and two.\nSource:    three: four.\n\nOther: no.\n")
    assert said == {"What": "one and two.", "Source": "three: four."}


def test_a_stored_run_is_tabulated_with_what_it_must_be_quoted_with(finished_run, tmp_path):
    stored = tmp_path / "results.json"
    make_docs.store(finished_run, stored)
    table = make_docs.results_table(stored)
    assert "| Score | **1.5000 bits per byte** (sliding windows, context 256, stride 64) |" in table
    assert "400,000 tokens, 1,000,000 bytes, 34 documents, 100% of the validation text" in table
    brotli, xz = (line for line in table.splitlines() if "nutshell takes" in line)
    assert brotli == "| brotli -11 | 2.4000 bits per byte: nutshell takes 37.5% fewer |"
    assert "40.0% fewer" in xz
    assert "999,123 of 1,000,000 bytes" in table
    assert "20,000 tokens in 8 documents decoded back to the exact bytes; 75,008 bits coded, 75,000 claimed" in table
    assert "1,234 steps, 10,000,000 tokens, 1,500,000 parameters, seed 0" in table
    assert "5 min 30 s" in table


def test_without_a_stored_run_the_table_says_so(tmp_path):
    assert make_docs.results_table(tmp_path / "none.json") == make_docs.NO_RESULT


def test_an_exploration_is_not_stored(finished_run, tmp_path):
    (finished_run / "summary.json").write_text(json.dumps({**SUMMARY, "overrides": {"optim.matrix_lr": 0.03}}))
    with pytest.raises(SystemExit, match=r"was run with --set .*matrix_lr"):
        make_docs.store(finished_run, tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_a_document_without_a_place_for_its_table_is_refused():
    with pytest.raises(AssertionError, match="no place for the table 'results'"):
        make_docs.filled("text", "results", "table")


@pytest.mark.parametrize("page", ["README.md", "docs/scoring-rules.md", "docs/compression.md", "docs/log.md"])
def test_a_page_with_scores_of_ours_says_what_is_proved(page):
    """Pages on techniques and footguns quote others' numbers only."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.search(r"\d\.\d{3,}", text)
    assert "not proved" in text or "| Proof |" in text


def test_no_link_of_the_documents_leads_nowhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_module_has_its_line_in_the_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "nutshell"
    one_page_each = {package / "model" / folder for folder in ("techniques", "residual", "entry")}
    modules = [
        path for path in package.rglob("*.py") if not path.stem.startswith("__") and path.parent not in one_page_each
    ]
    assert len(modules) > 50
    assert [path.name for path in modules if path.name not in page] == []
