"""benchmarks/gpu_acceptance.py on a CPU: a page and a JSON of what was checked; a failure is seen and exits with 1."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_acceptance
import gpu_checks
import gpu_runs
import gpu_setting
import gpu_speed

CPU = torch.device("cpu")


def results(tmp_path, *checks, code=0):
    """Of a run of the program."""
    with pytest.raises(SystemExit) as end:
        gpu_acceptance.main(["--device", "cpu", "--out", str(tmp_path), "--only", *checks])
    assert end.value.code == code
    return json.loads((tmp_path / "gpu_acceptance.json").read_text())["checks"]


def test_what_holds_is_on_the_page_and_what_needs_a_gpu_is_skipped_with_a_reason(tmp_path):
    got = results(tmp_path, "batches", "losses", "waits")
    assert [r["result"] for r in got] == ["passed", "passed", "skipped"] and got[2]["why"]
    assert len(got[0]["rows"]) == 5 and len(got[1]["rows"]) == 7
    page = (tmp_path / "gpu_acceptance.md").read_text()
    assert page.startswith("### On ") and "torch" in page.splitlines()[2]
    assert (
        "| skipped: a CPU never waits for itself |" in page
        and "| loss | float32 | float16 | bfloat16 |\n| --- | ---: |" in page
    )
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert len(headings) == 1, "a section of docs/results.md"


def test_a_difference_and_an_error_are_failures_and_each_net_is_a_case_of_its_own(monkeypatch):
    def other_batches(*args, **options):
        data = build(*args, **options)
        if args[4] != "cpu":
            data.train._transform.bias += 0.1
        return data

    def refuses(s, flags, *_):
        sys.exit(2) if "vgg11" in flags else job_of(s, flags, 16)

    build, job_of = gpu_checks.build_data, gpu_setting.job_of
    monkeypatch.setattr(gpu_checks, "build_data", other_batches)
    monkeypatch.setattr(gpu_speed, "job_of", refuses)
    monkeypatch.setattr(gpu_checks, "losses_of", lambda *_: [1.0, math.nan, 1.0])
    got = [gpu_acceptance.run(name, CPU) for name in ("batches", "gap", "nets")]
    assert [r["result"] for r in got] == ["failed"] * 3
    assert len(got[0]["failures"]) == 5 and got[1]["failures"] == ["SystemExit: 2"]
    assert len(got[2]["failures"]) == len(got[2]["rows"]) == 4


DIES = """
import os, sys
sys.path.insert(0, {benchmarks!r})
import gpu_acceptance

def gap(s):
    "It does not survive its second case."
    with s.case("first"):
        s.rows.append({{"case": "first"}})
    os._exit(7)

gpu_acceptance.CHECKS["gap"] = gap
gpu_acceptance.main()
"""


def test_a_check_that_its_process_does_not_survive_has_failed_and_stops_no_other(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(DIES.format(benchmarks=str(ROOT / "benchmarks")))
    monkeypatch.setattr(gpu_acceptance, "__file__", str(program))
    pages, write = [], gpu_acceptance.write
    monkeypatch.setattr(
        gpu_acceptance, "write", lambda known, *a: (pages.append(len(known)), write(known, *a))
    )
    dead, other = results(tmp_path, "gap", "waits", code=1)
    assert dead["rows"] == [{"case": "first"}] and dead["failures"] == ["its process ended with exit code 7"]
    assert other["result"] == "skipped" and len(pages) > 3, (
        "what is known of a check is on the page before its end"
    )
    page = (tmp_path / "gpu_acceptance.md").read_text()
    assert "second case. | not ended |" in page and "- **its process ended with exit code 7**" in page


def test_a_case_that_fails_or_has_no_room_leaves_the_others_and_nan_is_never_small(tmp_path):
    done = []
    s = gpu_setting.Setting(check="c", device=CPU, rows=[], failures=[], done=lambda: done.append(1))
    for name in ("a", "b"):
        with s.case(name):
            raise ValueError("x\ny")
    assert s.failures == ["a: ValueError: x y", "b: ValueError: x y"] and len(done) == 2
    assert gpu_setting.largest([1.0, 2.0]) == 2 and math.isnan(gpu_setting.largest([1.0, math.nan]))
    rows = gpu_acceptance.without_nan([{"a": math.nan, "b": [1.0]}])
    assert rows == [{"a": None, "b": [1.0]}] and "| – |" in gpu_acceptance.table([{"a": math.nan}])


def test_the_aims_are_for_some_nets_on_an_h100(monkeypatch):
    def rates(s, net, bs, steps, largest, row):
        if net == "swin":
            raise RuntimeError("as if it had no room")
        row |= {"times published": 4.0, "share of matmul": 0.41}

    monkeypatch.setattr(gpu_speed, "rates_of", rates)
    monkeypatch.setattr(gpu_speed, "SIX", ["vit", "resnet18", "swin"])
    monkeypatch.setattr(gpu_speed, "STEPS", {64: 2, 512: 2})
    monkeypatch.setattr(gpu_setting.Setting, "free", lambda s: None)
    for capability, missed in (((9, 0), {"resnet18: times published 4.00, the aim is 5"}), ((7, 5), set())):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, c=capability: c)
        s = gpu_setting.Setting(
            check="speed",
            device=torch.device("cuda", 0),
            small=False,
            rows=[],
            failures=[],
            done=lambda: None,
        )
        gpu_speed.speed(s)
        swin = {f"swin, {bs} images: RuntimeError: as if it had no room" for bs in (64, 512)}
        assert len(s.rows) == 6 and set(s.failures) == missed | swin


def test_kernels_idle_time_and_launches_are_counted_from_a_profile():
    kinds = torch.autograd.DeviceType

    def event(name, start, end, kind=kinds.CUDA, annotation=False):
        time_range = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(
            name=name, time_range=time_range, device_type=kind, is_user_annotation=annotation
        )

    events = [
        event("gemm", 0, 4), event("add", 2, 5), event("mul", 8, 10), event("norm", 8.5, 9),
        event("Memcpy HtoD", 20, 30), event("Optimizer.step#Adam.step", 0, 50, annotation=True),
        event("cudaLaunchKernel", 0, 6, kinds.CPU), event("cudaLaunchKernelExC", 7, 9, kinds.CPU),
    ]  # fmt: skip
    got = gpu_speed.profile_of(events, 2)
    assert got == {"kernels a step": 2, "idle share": pytest.approx(0.3), "µs a launch": 4}
    assert math.isnan(gpu_speed.profile_of([], 2)["idle share"])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        torch.ones(3).sum()
    assert gpu_speed.profile_of(seen.events(), 1)["kernels a step"] == 0  # its events have these fields


def test_no_run_of_a_check_outlives_it():
    with pytest.raises(RuntimeError, match="exit code 2, not 0"):
        with gpu_runs.Runs("--dataset", "digits") as runs:
            slow = runs.start("--device", "cpu", "--net", "vit", "--epochs", 1000)
            runs.end(runs.start("--nonsense"))
    assert slow.poll() == -9 and not runs["x"].parents[1].exists()


def test_the_state_of_two_runs_is_compared_to_the_last_bit(tmp_path):
    state = {
        "model": {"w": torch.zeros(3)},
        "optimizer": {"state": {0: {"step": torch.ones(())}}},
        "scaler": {},
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "last.pt")
        state["model"]["w"] = state["model"]["w"] + (name == "a") * 1e-30
    assert gpu_runs.same_state(tmp_path / "a", tmp_path / "a")
    assert not gpu_runs.same_state(tmp_path / "a", tmp_path / "b")
