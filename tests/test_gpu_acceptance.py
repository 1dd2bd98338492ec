"""benchmarks/gpu_acceptance.py on a CPU: a page and a JSON of what was checked; a failure is seen and exits with 1."""

import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_acceptance
import gpu_checks


def results(tmp_path, *checks, code=0):
    with pytest.raises(SystemExit) as end:
        gpu_acceptance.main(["--device", "cpu", "--out", str(tmp_path), "--only", *checks])
    assert end.value.code == code
    return json.loads((tmp_path / "gpu_acceptance.json").read_text())["checks"]


def test_what_holds_is_on_the_page_and_what_needs_a_gpu_is_skipped_with_a_reason(tmp_path):
    got = results(tmp_path, "batches", "losses", "waits")
    assert [r["result"] for r in got] == ["passed", "passed", "skipped"] and got[2]["why"]
    assert len(got[0]["rows"]) == 5 and len(got[1]["rows"]) == 4 * 3 * 3
    page = (tmp_path / "gpu_acceptance.md").read_text()
    assert (
        "torch" in page.splitlines()[3]
        and "| waits | skipped |" in page
        and "| rlo, float16, ± 100 |" in page
    )


def test_a_difference_and_an_error_are_failures_that_leave_the_page(tmp_path, monkeypatch):
    def other_batches(*args, **options):
        data = build(*args, **options)
        if args[4] != "cpu":
            data.train._transform.bias += 0.1
        return data

    build = gpu_checks.build_data
    monkeypatch.setattr(gpu_checks, "build_data", other_batches)
    monkeypatch.setattr(gpu_checks, "job_of", None)
    got = results(tmp_path, "batches", "gap", code=1)
    assert [r["result"] for r in got] == ["failed", "failed"]
    assert len(got[0]["failures"]) == 5 and got[1]["failures"][0].startswith("TypeError")
    assert "**TypeError" in (tmp_path / "gpu_acceptance.md").read_text()


def test_the_state_of_two_runs_is_compared_to_the_last_bit(tmp_path):
    import torch

    state = {
        "model": {"w": torch.zeros(3)},
        "optimizer": {"state": {0: {"step": torch.ones(())}}},
        "scaler": {},
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "last.pt")
        state["model"]["w"] = state["model"]["w"] + (name == "a") * 1e-30
    assert gpu_checks.same_state(tmp_path / "a", tmp_path / "a")
    assert not gpu_checks.same_state(tmp_path / "a", tmp_path / "b")
