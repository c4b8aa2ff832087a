import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from nutshell.errors import RunError
from nutshell.report.html import write_report

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "</title></pre><script>alert(1)</script><img src=//evil.example onerror=x>\"'&"


class Page(HTMLParser):
    """The visible text, the tags and their attributes; refuses a tag that closes what is not open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def brief(run_dir):
    """Leave one logged step: too few to draw, which takes most of a page's time."""
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0])


def page_of(run_dir):
    return Page(write_report(run_dir).read_text())


@pytest.mark.usefixtures("brief")
def test_writes_one_page_beside_the_files_it_read(run_dir):
    assert write_report(run_dir) == run_dir / "report.html"
    assert [path for path in run_dir.iterdir() if path.suffix == ".tmp"] == []


def test_same_files_same_bytes(run_dir):
    assert write_report(run_dir).read_bytes() == write_report(run_dir).read_bytes()


def test_needs_no_network_and_no_script(run_dir):
    html = write_report(run_dir).read_text()
    page = Page(html)
    assert {"script", "iframe", "object", "embed", "img", "base"}.isdisjoint(page.tags)
    loading = {"src", "href", "xlink:href", "srcset", "action", "background", "poster"}
    references = [value for _, name, value in page.attributes if name in loading]
    assert all(reference.startswith(("#", "data:,")) for reference in references)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert set(re.findall(r"url\((.)", html)) == {"#"}
    assert "@import" not in html
    assert "://" not in html
    policy = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert any("default-src 'none'" in value for value in policy)


def test_drawings_are_well_formed_and_ids_unique(run_dir):
    html = write_report(run_dir).read_text()
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ET.fromstring(svg)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    named = set(re.findall(r'aria-labelledby="([^"]*)"|url\(#([^)]*)\)', html))
    assert {first or second for first, second in named} <= set(ids)


def test_opens_with_the_answer(run_dir):
    text = page_of(run_dir).text
    answer = text.index("1.7421 bits per byte on 1,126,482 bytes of validation text, from an artifact of 987,654 bytes")
    assert answer < text.index("Training loss")
    assert "34.2 % fewer bits than brotli, the best of 3 general compressors" in text
    assert "exploration" not in text
    assert "must hold and do not" not in text


SHOWN = [
    "3.3422 nats/token, 1.2076 nats/byte, over 407,000 tokens, 1,126,482 bytes, 214 documents; coverage 100 %",
    "98.77 % of the budget of 1,000,000 bytes; model.nut",
    "proved on a sample 12,345 tokens in 8 documents (3.0 % of those scored) decoded back to the exact bytes",
    "59,536 bits coded, 59,507 claimed (+0.048 %)",
    "demo 1.7421 -34.2 % brotli 2.6482 reference zstd 2.7094 +2.3 % xz 2.7713 +4.6 %",
    "1,480 steps, 12,124,160 tokens, 2,170,896 parameters, seed 42; cpu, 2 threads, bfloat16: Intel(R) Xeon(R)",
    "1 0-6 0-650 104.1 160.2 51,136",
    "2 0-1 (2-4)x2 5-6 660-1,480 295.5 231.4 35,402",
    "7, run as 10 virtual layers",
    "991,000 bytes before training; it became 987,654 (-0.3 %)",
    "matrix 1,769,472 81.5 % embedding 393,216 18.1 % gain 7,168 0.3 % scale 1,040 < 0.1 %",
    "One per cent more bytes would make weights 0.036 bits finer.",
    "matrix trellis, slope 1,769,472 3.532 781,302 79.1 % 2.1e-03 1.2e-03",
    "scale fp16 1,040 16.000 2,080 0.2 % 1.0e-08 -",
    "matrix (planes) 781,302 79.1 % embedding (planes) 172,300 17.4 % tokenizer 21,870 2.2 %",
    "train 300.1 67.4 % pack 9.7 2.2 %",
    "total 445.5",
    "nutshell demo --seed 42",
    "kind = sliding, context = 256, stride = 64",
    "nutshell 0.1.0, python 3.11.9, torch 2.13.0, numpy 2.4.6",
    "3f" * 32,
    "a7" * 32,
    "0c" * 32,
    'schedule = "0-1 (2-4)x2 5-6" skips = "mirror"',
]


def test_shows_every_number_with_its_unit(run_dir, edit):
    roles = [
        {
            "role": "matrix", "method": "trellis, slope", "num_weights": 1_769_472, "num_bytes": 781_302,
            "bits_per_weight": 3.5324, "relative_error": 2.1e-3, "nats_per_token": 1.2e-3,
        },
        {
            "role": "scale", "method": "fp16", "num_weights": 1_040, "num_bytes": 2_080,
            "bits_per_weight": 16.0, "relative_error": 1e-8,
        },
    ]  # fmt: skip
    following = {"num_bytes": 9_876, "bits_per_weight": 0.0364, "relative_error": 1e-4}
    edit("pack.json", roles=roles, next_percent=following)
    text = page_of(run_dir).text
    assert [expected for expected in SHOWN if expected not in text] == []


def test_describes_its_drawings_in_words(run_dir):
    attributes = page_of(run_dir).attributes
    labels = [value for _, name, value in attributes if name == "aria-label"]
    assert len(labels) == attributes.count(("svg", "role", "img")) + attributes.count(("figure", "role", "img")) == 2
    assert any("Training loss from 7.897 nats per token at step 0 to 3.323 at step 1,480" in label for label in labels)
    order = "7 blocks run as 10 virtual layers, in the order 0 1 2 3 4 2 3 4 5 6;"
    assert any(f"{order} skips between virtual layers 0 to 9, 1 to 8, 2 to 7." in label for label in labels)


def test_hostile_strings_are_text(run_dir, edit, load):
    summary, description, ledger = load("summary.json"), load("describe.json"), load("pack.json")
    edit(
        "summary.json",
        name=HOSTILE,
        command=HOSTILE,
        artifact=HOSTILE,
        overrides={HOSTILE: HOSTILE},
        compressors={HOSTILE: 2.0, **summary["compressors"]},
        strategy={HOSTILE: HOSTILE},
        seconds={HOSTILE: 1.0},
    )
    edit("run.json", processor=HOSTILE, versions={HOSTILE: HOSTILE}, device=HOSTILE, recipe_digest=HOSTILE)
    edit("describe.json", schedule=HOSTILE, params_by_role={HOSTILE: 5, **description["params_by_role"]})
    role = {
        "role": HOSTILE,
        "method": HOSTILE,
        "num_weights": 1,
        "num_bytes": 1,
        "bits_per_weight": 8,
        "relative_error": 0,
    }
    edit("pack.json", sections=[{"name": HOSTILE, "kind": HOSTILE, "bytes": 4}, *ledger["sections"]], roles=[role])
    (run_dir / "metrics.jsonl").write_text((run_dir / "metrics.jsonl").read_text().replace("0-6", "</svg><script>x$"))
    (run_dir / "recipe.toml").write_text(HOSTILE)
    html = write_report(run_dir).read_text()
    page = Page(html)
    assert {"script", "img"}.isdisjoint(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in "".join(page.texts)


@pytest.mark.usefixtures("brief")
def test_overrides_are_flagged_before_the_score(run_dir, edit):
    edit("summary.json", overrides={"optim.matrix_lr": 0.03, "train.seed": 7})
    text = page_of(run_dir).text
    flag = "overrides: optim.matrix_lr = 0.03, train.seed = 7 - exploration, not a recipe's result"
    assert text.index(flag) < text.index("Score 1.7421")
    assert "Defaults and overrides included." in text


@pytest.mark.usefixtures("brief")
def test_without_a_proof_it_says_not_proved(run_dir, edit):
    edit("summary.json", proof=None)
    text = page_of(run_dir).text
    assert "Proof not proved Nothing was decoded back from the artifact: the score is what the scorer computed" in text
    assert "proved on a sample" not in text


@pytest.mark.usefixtures("brief")
def test_a_proof_of_everything_is_no_sample(run_dir, edit, load):
    edit("summary.json", proof={**load("summary.json")["proof"], "tokens": 407_000})
    assert "Proof proved 407,000 tokens" in page_of(run_dir).text


@pytest.mark.usefixtures("brief")
def test_a_failed_proof_is_not_proved(run_dir, edit, load):
    edit("summary.json", proof={**load("summary.json")["proof"], "ok": False})
    text = page_of(run_dir).text
    assert "proof failed" in text
    assert "decoded back to the exact bytes" not in text


@pytest.mark.usefixtures("brief")
def test_numbers_that_disagree_are_flagged_before_the_score(run_dir, edit):
    edit("summary.json", coverage=0.999999)
    text = page_of(run_dir).text
    flag = "These must hold and do not: Every byte of the text was charged, once (coverage 0.999999)"
    assert text.index(flag) < text.index("Score 1.7421")
    assert "coverage 99.9999 %" in text


def test_what_has_not_been_done_is_said_in_words(run_dir, edit, rows):
    (run_dir / "pack.json").unlink()
    (run_dir / "metrics.jsonl").write_text("")
    edit("summary.json", bpb=None, proof=None, artifact=None, artifact_bytes=None, seconds={})
    text = page_of(run_dir).text
    for words in [
        "This run has not been scored.",
        "Score not scored",
        "Artifact not packed",
        "Proof not proved",
        "Not compared: the run has not been scored.",
        "Too few logged steps to draw a curve.",
        "Not packed: there is no artifact to account for.",
        "No times were stored.",
    ]:
        assert words in text


@pytest.mark.usefixtures("brief")
def test_worse_than_the_compressors_is_said_plainly(run_dir, edit):
    edit("summary.json", compressors={"xz": 1.6})
    text = page_of(run_dir).text
    assert "8.9 % more bits than xz" in text
    assert "xz 1.6000 reference demo 1.7421 +8.9 %" in text


@pytest.mark.usefixtures("brief")
def test_other_definitions_are_labelled_and_come_after_the_score(run_dir, edit):
    text = page_of(run_dir).text
    assert "only the first line is this run's score" in text
    assert "this score: kind = sliding, context = 256, stride = 64 1.7421" in text
    assert "disjoint windows, each document alone 1.7711" in text
    assert "disjoint windows over the stream, the field's definition 1.7598" in text
    assert text.index("Score 1.7421") < text.index("by other definitions")
    edit("summary.json", disjoint_bpb=None, stream_bpb=None)
    assert "by other definitions" not in page_of(run_dir).text


@pytest.mark.usefixtures("brief")
def test_a_list_of_rules_reads_as_words(run_dir, edit):
    edit("summary.json", strategy={"kind": "sliding", "rules": ["charge_end", "charge_bos"], "settings": {}})
    text = page_of(run_dir).text
    assert "kind = sliding, rules = charge_end + charge_bos" in text
    assert "settings =" not in text


@pytest.mark.usefixtures("brief")
def test_conditions_that_changed_on_resume_are_in_the_receipt(run_dir, edit):
    assert "changed on resume" not in page_of(run_dir).text
    change = {"after_step": 1200, "condition": "threads", "before": "4", "after": "2"}
    edit("run.json", changes_on_resume=[change, {**change, "condition": "torch"}])
    assert "changed on resume after step 1,200: threads 4, then 2; after step 1,200: torch 4" in page_of(run_dir).text


@pytest.mark.usefixtures("brief")
def test_no_compressors(run_dir, edit):
    edit("summary.json", compressors={})
    assert "Not compared: no compressor was run on the text." in page_of(run_dir).text


@pytest.mark.usefixtures("brief")
def test_many_sections_are_grouped_and_still_add_up(run_dir, edit):
    sections = [{"name": f"matrix.{i}", "kind": "planes", "bytes": 1000 + i} for i in range(40)]
    edit("pack.json", sections=sections)
    text = page_of(run_dir).text
    assert "matrix.27 (planes) 1,027" in text
    assert "matrix.26" not in text
    assert f"27 smaller sections {sum(1000 + i for i in range(27)):,}" in text


def test_a_damaged_run_writes_no_report(run_dir):
    (run_dir / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run\.json"):
        write_report(run_dir)
    assert not (run_dir / "report.html").exists()
