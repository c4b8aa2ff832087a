"""Where the time goes: operators by stage, against recordings written out, and a small training that is watched."""

import time

import pytest
import torch

from nutshell.pipeline.profiling import RECORDED_STEPS, WARM_STEPS, Event, Profiler, add_up, group_of
from small_training import CPU, ONCE, TWICE, phase, small_run

MARKS = [(10.0, "begin"), (20.0, "data"), (30.0, "loss"), (40.0, "begin"), (50.0, "data"), (60.0, "loss")]


def test_an_operator_belongs_to_the_stage_that_ends_after_it():
    events = [
        Event("aten::mm", 12.0, 1.0, 8),
        Event("aten::mm", 22.0, 2.0, 8),
        Event("aten::mm", 55.0, 4.0, 8),
        Event("aten::mm", 35.0, 99.0, 8),  # between two steps
        Event("aten::mm", 5.0, 99.0, 8),
        Event("aten::mm", 65.0, 99.0, 8),
    ]
    found = add_up(events, MARKS, num_steps=2)
    assert [(row.stage, row.calls, row.seconds, row.bytes) for row in found] == [
        ("loss", 1.0, 3.0, 8.0),
        ("data", 0.5, 0.5, 4.0),
    ]


@pytest.mark.parametrize(
    ("name", "stage", "group"),
    [
        ("aten::mm", "forward", "matrix products"),
        ("aten::mm", "optimizer", "optimizer"),
        ("aten::mm", "loss", "loss"),
        ("sm90_xmma_gemm_bf16", "backward", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention", "forward", "attention"),
        ("triton_red_fused_mm_add", "forward", "compiled"),
        ("aten::copy_", "forward", "copies"),
        ("aten::mul", "backward", "elementwise"),
        ("aten::copy_", "data", "data loading"),
        ("cudaLaunchKernel", "forward", "other"),
    ],
)
def test_groups(name, stage, group):
    assert group_of(name, stage) == group


def test_stages_are_timed_by_the_clock():
    profiler = Profiler(CPU)
    for _ in range(WARM_STEPS + RECORDED_STEPS + 1):
        profiler.begin(0, "0-3")
        time.sleep(0.02)
        profiler.done("data")
        torch.ones(8, 8) @ torch.ones(8, 8)
        profiler.done("forward")
        profiler.end()
    (found,) = profiler.result()["phases"]
    assert (found["steps"], found["schedules"]) == (RECORDED_STEPS, {"0-3": RECORDED_STEPS})
    assert found["stages"]["data"]["seconds"] >= 0.02
    assert [(row["name"], row["calls"]) for row in found["operators"] if row["name"] == "aten::mm"] == [("aten::mm", 1)]


def test_a_training_is_recorded_by_phase_and_trains_as_one_unwatched(tmp_path):
    phases = (phase(0.7, ONCE), phase(1.0, TWICE))
    plain = small_run(tmp_path, *phases, steps=10).train()
    watched, profiler = small_run(tmp_path, *phases, steps=10), Profiler(CPU)
    object.__setattr__(watched.gradients, "stages", profiler)
    watched.gradients.losses[False]._stages = profiler
    watched.train()
    assert all(torch.equal(value, watched.tensors()[name]) for name, value in plain.tensors().items())
    first, second = profiler.result()["phases"]
    assert (first["steps"], first["schedules"]) == (RECORDED_STEPS, {ONCE: RECORDED_STEPS})
    assert second["steps"] == 1
    stages = {"data", "forward", "loss", "backward", "penalties", "optimizer", "average", "logging"}
    assert first["stages"].keys() == stages
    whole = sum(stage["seconds"] for stage in first["stages"].values())
    assert 0.5 * first["seconds_per_step"] < whole <= first["seconds_per_step"]
    assert {"loss", "optimizer", "matrix products"} <= first["groups"].keys()


def test_a_phase_too_short_says_so():
    profiler = Profiler(CPU)
    profiler.begin(0, "0-3")
    profiler.end()
    assert profiler.result()["phases"] == [{"phase": 0, "steps": 0}]
