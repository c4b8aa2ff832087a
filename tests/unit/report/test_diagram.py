import re
import xml.etree.ElementTree as ET

import msgspec
import pytest

from nutshell.report.diagram import BOX_WIDTH, depth_diagram, draw_depth
from nutshell.report.stored import Description

HOSTILE = "</text><script>alert(1)</script>\x1b\"'&"


@pytest.fixture
def stored(load):
    return load("describe.json")


def diagram_of(stored, **changes):
    return depth_diagram(msgspec.convert({**stored, **changes}, Description))


def draw(stored, *, standalone=True, **changes):
    return draw_depth(msgspec.convert({**stored, **changes}, Description), standalone=standalone)


def parse(svg):
    """Read a drawing, which is in the namespace of SVG where it is a file of its own."""
    root = ET.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.removeprefix("{http://www.w3.org/2000/svg}")
    return root


def column(diagram, kind):
    (found,) = [column for column in diagram.columns if column.kind == kind]
    return found


def test_a_panel_for_each_schedule_the_final_one_last(stored):
    flat, final = diagram_of(stored).panels
    assert [box.block for box in flat.boxes] == list(range(7))
    assert [box.block for box in final.boxes] == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
    assert flat.heading == ["phase 1: 0 to 35 %", "0-6", "7 virtual layers, 2 skips"]
    assert final.heading == ["phase 2: 35 to 100 %", "0-1 (2-4)x2 5-6", "10 virtual layers, 3 skips"]
    assert flat.right < final.x


def test_one_schedule_needs_no_name_of_a_phase(stored):
    (only,) = diagram_of(stored, phases=stored["phases"][1:]).panels
    assert only.heading == ["0-1 (2-4)x2 5-6", "10 virtual layers, 3 skips"]


def test_a_schedule_that_two_phases_draw_has_one_panel(stored):
    flat, looped = stored["phases"]
    drawn = {"begin": 0.35, "until": 0.6, "schedules": [*flat["schedules"], *looped["schedules"]]}
    panels = diagram_of(stored, phases=[flat, drawn, {**looped, "begin": 0.6}]).panels
    assert [panel.heading[:-2] for panel in panels] == [
        ["phase 1: 0 to 35 %", "phase 2: 35 to 60 %, one of 2"],
        ["phase 2: 35 to 60 %, one of 2", "phase 3: 60 to 100 %"],
    ]


def test_a_repeated_block_keeps_its_column_and_has_its_colour_in_every_panel(stored):
    flat, final = diagram_of(stored).panels
    for panel in (flat, final):
        assert {(box.block, box.x) for box in panel.boxes} == set(panel.column_x.items())
        assert {box.block: box.hue for box in panel.boxes} == {0: None, 1: None, 2: 0, 3: 1, 4: 2, 5: None, 6: None}
        heights = [box.y for box in panel.boxes]
        assert heights == sorted(set(heights))
        assert len(panel.steps) == len(panel.boxes) - 1


def numbers(path):
    return [float(number) for number in re.findall(r"[\d.]+", path)]


def test_skips_lead_from_source_to_target_inside_their_panel(stored):
    for panel, skips in zip(diagram_of(stored).panels, ([[1, 5], [0, 6]], stored["skips"]), strict=True):
        for (source, target), path, tip in zip(skips, panel.skips, panel.tips, strict=True):
            leave_x, leave_y, rail, handle, *_, arrive_x = numbers(path)
            assert (leave_x, leave_y) == (panel.boxes[source].x + BOX_WIDTH / 2, panel.boxes[source].y)
            assert tip == (panel.boxes[target].x + BOX_WIDTH / 2, panel.boxes[target].y)
            assert tip[0] < arrive_x < rail
            assert rail + 0.75 * (handle - rail) <= panel.right + 0.1


def test_arcs_of_different_lengths_stand_apart(stored):
    handles = [numbers(path)[3] for path in diagram_of(stored).panels[-1].skips]  # 9, 7 and 5 long
    assert handles[0] - 6 > handles[1] > handles[2] + 6


def test_techniques_are_marked_where_they_act(stored):
    for layer in stored["virtual_layers"][:2]:
        layer["techniques"] = layer["techniques"][:1]
    diagram = diagram_of(stored)
    boxes = diagram.panels[-1].boxes
    assert [(column.seam, column.kind) for column in diagram.columns] == [
        ("weights", "own mlp"),
        ("residual", "parallel"),
        ("entry", "x0_mix"),
        ("modulate", "layer_scale"),
        ("modulate", "branch_scale"),
    ]
    places = {column.kind: [mark.y for mark in column.marks] for column in diagram.columns}
    assert places["parallel"] == [box.y for box in boxes if box.block >= 5]
    assert places["own mlp"] == [box.y for box in boxes if box.block in (2, 3, 4)]
    assert places["branch_scale"] == [box.y for box in boxes[2:]]
    assert [mark.value for mark in column(diagram, "layer_scale").marks][:2] == ["0.577", "0.500"]
    assert [mark.per_visit for mark in column(diagram, "x0_mix").marks] == [box.block in (2, 3, 4) for box in boxes]
    assert diagram.notes == [
        "inputs: embed_norm; logits: softcap; norms: attention pre, mlp peri; skips join by gated_skip",
        "diamond: weights of this visit alone",
    ]
    plain = diagram_of(stored, norms={"attention": "pre", "mlp": "pre"})
    assert plain.notes[0] == "inputs: embed_norm; logits: softcap; skips join by gated_skip"
    positions = [column.x for column in diagram.columns]
    assert positions == sorted(positions)
    assert positions[0] > diagram.panels[-1].right


def extent(svg):
    """The right and lower ends of what is drawn, texts by a letter's width of 5 pixels."""
    right, bottom = [], []
    for element in svg.iter():
        x, y = (float(element.get(name, 0)) for name in ("x", "y"))
        if element.tag == "rect" and element.get("class"):
            right.append(x + float(element.get("width")))
            bottom.append(y + float(element.get("height")))
        if element.tag == "text" and not element.get("transform"):
            right.append(x + (0 if element.get("text-anchor") else 5 * len("".join(element.itertext()))))
            bottom.append(y)
        if slanted := re.match(r"translate\(([\d.]+) ([\d.]+)\) rotate", element.get("transform", "")):
            rise = 5 * len("".join(element.itertext())) / 2**0.5
            right.append(float(slanted[1]) + rise)
            assert float(slanted[2]) - rise > 0
    return max(right), max(bottom)


@pytest.mark.parametrize("standalone", [False, True])
@pytest.mark.parametrize("case", ["as it is", "bare", "long"])
def test_everything_is_inside_the_picture(stored, standalone, case):
    if case == "bare":
        for layer in stored["virtual_layers"]:
            layer |= {"techniques": [], "residual": "sequential", "weights": {"attention": "own", "mlp": "own"}}
        stored |= {"skips": [], "join": None, "inputs": [], "logits": [], "phases": []}
    if case == "long":
        stored |= {"schedule": "0 " * 300, "inputs": ["a_kind_with_a_long_name"] * 9}
        stored["virtual_layers"][3]["techniques"].append({"seam": "values", "kind": "a_kind_with_a_very_long_name"})
    svg = parse(draw(stored, standalone=standalone))
    _, _, width, height = map(float, svg.get("viewBox").split())
    margin = 16 if standalone else 0
    right, bottom = extent(svg)
    assert right <= width - margin
    assert bottom <= height - margin


def test_a_file_needs_nothing_else_and_a_page_keeps_its_own_colours(stored):
    alone, within = draw(stored), draw(stored, standalone=False)
    assert "var(" not in alone
    assert "<style>" in alone
    assert 'font-family="sans-serif"' in alone
    assert "demo" in "".join(parse(alone).itertext())
    for svg in (alone, within):
        assert not re.search(r"url\(|href|@import|<script|<image", svg)
        assert " id=" not in svg
    assert alone.count("://") == alone.count('xmlns="http://www.w3.org/2000/svg"') == 1
    assert "://" not in within
    assert "<style" not in within
    assert not re.search(r"#[0-9a-f]{6}\b", within)


def test_the_same_model_gives_the_same_bytes(stored):
    assert draw(stored) == draw(stored)


def test_it_is_described_in_words(stored):
    assert diagram_of(stored).label == (
        "7 blocks run as 10 virtual layers, in the order 0 1 2 3 4 2 3 4 5 6; "
        "skips between virtual layers 0 to 9, 1 to 8, 2 to 7."
    )
    only = diagram_of(stored, virtual_layers=stored["virtual_layers"][:1], skips=[], phases=[])
    assert only.label == "1 block run as 1 virtual layer, in the order 0."
    assert only.panels[0].heading[-1] == "1 virtual layer, no skips"
    titles = [element.text for element in parse(draw(stored)).iter("title")]
    assert "virtual layer 7: block 4, iteration 1; skip from 2" in titles


@pytest.mark.parametrize("standalone", [False, True])
def test_hostile_names_are_text(stored, standalone):
    for layer in stored["virtual_layers"]:
        layer["residual"] = HOSTILE
        layer["techniques"][0] |= {"kind": HOSTILE, "seam": HOSTILE}
    stored["phases"][0]["schedules"][0]["schedule"] = HOSTILE
    svg = parse(draw(stored, standalone=standalone, name=HOSTILE, schedule=HOSTILE, inputs=[HOSTILE], join=HOSTILE))
    assert not [element for element in svg.iter() if element.tag == "script"]
    text = "".join(svg.itertext())
    assert text.count("<script>alert(1)</script>\N{REPLACEMENT CHARACTER}") >= 6
    assert "\x1b" not in text
