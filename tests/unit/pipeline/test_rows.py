import json

import pytest

from nutshell.pipeline.rows import MetricsLog, RowLog


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_there_as_soon_as_they_are_written(tmp_path):
    with RowLog(tmp_path / "rows", num_done=0) as log:
        assert log.write({"step": 1, "value": 0.1}) == {"step": 1, "value": 0.1}
        assert read(tmp_path / "rows") == [{"step": 1, "value": 0.1}]


def test_what_is_not_finite_is_null(tmp_path):
    with RowLog(tmp_path / "rows", num_done=0) as log:
        log.write({"step": 1, "nan": float("nan"), "inner": [{"inf": float("inf")}]})
    assert read(tmp_path / "rows") == [{"step": 1, "nan": None, "inner": [{"inf": None}]}]


@pytest.mark.parametrize(("num_done", "kept"), [(0, []), (1, [1]), (2, [1, 2, 2]), (9, [1, 2, 2, 3])])
def test_a_resumed_log_keeps_the_rows_of_the_steps_that_were_saved(tmp_path, num_done, kept):
    path = tmp_path / "rows"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 2, 3)) + '{"step": 4, "cut sh')
    log = RowLog(path, num_done=num_done)
    assert [row["step"] for row in read(path)] == kept
    assert log.last_step == max(kept, default=0)


def test_metrics_have_the_bits_of_a_byte_beside_the_loss(tmp_path):
    with MetricsLog(tmp_path / "rows", 4.0, num_done=0) as log:
        assert log.write({"step": 1, "loss": 0.6931471805599453})["bpb"] == pytest.approx(0.25)
    assert read(tmp_path / "rows")[0]["bpb"] == pytest.approx(0.25)
