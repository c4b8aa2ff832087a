import re
import xml.etree.ElementTree as ET

import msgspec
import pytest

from nutshell.report.charts import loss_curve, split_phases
from nutshell.report.stored import MetricsRow


@pytest.fixture
def metrics(rows):
    return msgspec.convert(rows, list[MetricsRow])


def draw(metrics, width=600, scored_bpb=1.7421):
    return loss_curve(metrics, scored_bpb=scored_bpb, width=width, height=300)


def test_phases_split_where_the_phase_changes(metrics):
    flat, looped = split_phases(metrics)
    assert (flat.schedules, flat.first.step, flat.last.step) == (("0-6",), 0, 650)
    assert (looped.schedules, looped.first.step, looped.last.step) == (("0-1 (2-4)x2 5-6",), 660, 1480)
    assert split_phases([]) == []


def test_a_phase_that_draws_its_schedules_is_one_phase(metrics):
    drawn = [
        msgspec.structs.replace(row, schedule=("0-6", "0-1 (2-4)x3 5-6")[place % 3 // 2]) if row.phase else row
        for place, row in enumerate(metrics)
    ]
    flat, sampled = split_phases(drawn)
    assert flat.schedules == ("0-6",)
    assert (set(sampled.schedules), sampled.first.step) == ({"0-6", "0-1 (2-4)x3 5-6"}, 660)
    assert draw(drawn).count("phase ") == 2


def test_same_rows_same_bytes(metrics):
    assert draw(metrics) == draw(metrics)
    assert draw(metrics) != draw(metrics[:-1])


def test_loss_curve_says_what_it_shows(metrics):
    text = " ".join(ET.fromstring(draw(metrics)).itertext())
    for label in ["training time (s)", "training loss (nats/token)", "bpb estimate (bits/byte)", "step"]:
        assert label in text
    assert "score of the artifact: 1.7421" in text
    assert "phase 1" in text
    assert "phase 2" in text
    assert "score" not in draw(metrics, scored_bpb=None)
    assert "phase" not in draw(metrics[:20])


def test_colours_belong_to_the_page(metrics):
    svg = draw(metrics)
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert {"--ink", "--muted", "--rule", "--accent", "--accent-pale"} == set(re.findall(r"var\((--[\w-]+)\)", svg))
    assert "font-family" not in svg
    assert "<style" not in svg


def test_two_drawings_share_no_ids(metrics):
    first, second = (set(re.findall(r'id="([^"]*)"', draw(metrics, width=width))) for width in (380, 1000))
    assert first
    assert second
    assert not first & second


def place(svg, label):
    """Where a label stands, as a fraction of the frame's width."""
    frame = re.search(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    text = re.search(rf'x="([\d.]+)" y="[\d.]+">{label}</text>', svg)
    assert frame
    assert text
    return (float(text[1]) - float(frame[1])) / float(frame[2])


def test_steps_stand_at_the_second_they_were_reached(metrics):
    # Step 600 is 41 % of the steps, but was reached after 33 % of the time.
    seconds = {row.step: row.seconds for row in metrics}
    assert place(draw(metrics), "600") == pytest.approx(seconds[600] / seconds[1480], abs=1e-4)


def test_phases_meet_where_the_schedule_changes(metrics):
    svg = draw(metrics)
    seconds = {row.step: row.seconds for row in metrics}
    switch = seconds[660] / seconds[1480]
    assert place(svg, "phase 1") == pytest.approx(switch / 2, abs=1e-4)
    assert place(svg, "phase 2") == pytest.approx((switch + 1) / 2, abs=1e-4)


@pytest.mark.parametrize("loss", [3.0, 1e-9])
def test_flat_loss_still_has_a_frame(metrics, loss):
    flat = [msgspec.structs.replace(row, loss=loss, bpb=loss / 2) for row in metrics[:3]]
    ET.fromstring(draw(flat, scored_bpb=None))
